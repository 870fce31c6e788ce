"""The generator of network events."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from acequia.datasets import Dataset, Registry
from acequia.errors import RejectedInput
from acequia_ingestor.parse import Parsed, write_drawn
from acequia_ingestor.settings import IngestorSettings
from acequia_ingestor.sources.synthetic import SOURCE, SyntheticSource, draw_network_events

END = datetime(2025, 12, 20, 12, 12, 9, tzinfo=UTC)
ATTACKS = {"port_scan", "flood", "beaconing", "exfiltration"}
Draw = Callable[..., pl.DataFrame]


@pytest.fixture
def parsed(tmp_path: Path, network_events: Dataset) -> Callable[..., Parsed]:
    def of(rows: int, *, seed: int = 7, rate: float = 0.02, end: datetime = END, rows_per_part: int = 10**6) -> Parsed:
        source = SyntheticSource(kind="synthetic", rows=rows, seed=seed, anomaly_rate=rate)
        folder = tmp_path / f"{rows}-{seed}-{rate}-{len(list(tmp_path.iterdir()))}"
        chunks = draw_network_events(source, end)
        return write_drawn(chunks, network_events, "synthetic", folder, rows_per_part=rows_per_part)

    return of


@pytest.fixture
def draw(parsed: Callable[..., Parsed]) -> Draw:
    def of(rows: int, **options: object) -> pl.DataFrame:
        return pl.concat([pl.read_parquet(part.path) for part in parsed(rows, **options).parts])

    return of


@pytest.mark.parametrize("rows", [1, 2, 9, 10, 999, 10_000, 300_001])
@pytest.mark.parametrize("rate", [0.0, 0.001, 0.02, 0.5])
def test_as_many_rows_and_attacks_as_asked_for(rows: int, rate: float, draw: Draw) -> None:
    drawn = draw(rows, rate=rate)
    attacks = int((drawn["label"] != "benign").sum())
    assert drawn.height == rows
    assert attacks == (max(round(rows * rate), 1) if rate and rows >= 10 else round(rows * rate))
    assert drawn["_line"].to_list()[-1] == rows
    assert drawn["timestamp"].is_sorted()
    assert drawn["timestamp"][-1] <= END


def test_every_row_keeps_the_contract(draw: Draw, network_events: Dataset) -> None:
    drawn = draw(20_000, rate=0.2).drop("_line")
    _, failure = network_events.contract.filter(drawn)
    assert failure.counts() == {}
    assert (drawn["bytes"] == drawn["src_bytes"] + drawn["dst_bytes"]).all()


def test_the_same_seed_and_end_give_the_same_bytes_and_another_seed_does_not(parsed: Callable[..., Parsed]) -> None:
    first, again, other = parsed(5_000), parsed(5_000), parsed(5_000, seed=8)
    assert first.parts[0].path.read_bytes() == again.parts[0].path.read_bytes()
    assert first.parts[0].path.read_bytes() != other.parts[0].path.read_bytes()


def test_parts_are_cut_where_asked(parsed: Callable[..., Parsed]) -> None:
    drawn = parsed(250_000, rows_per_part=100_000)
    assert [(p.number, p.rows) for p in drawn.parts] == [(1, 100_000), (2, 100_000), (3, 50_000)]
    assert (drawn.rows_in, drawn.format, drawn.rejected) == (250_000, "synthetic", {})


def test_all_kinds_of_attack_fall_into_the_last_fifth_too(draw: Draw) -> None:
    drawn = draw(10_000)
    assert set(drawn["label"]) == ATTACKS | {"benign"}
    assert set(drawn.tail(2_500)["label"]) == ATTACKS | {"benign"}


def test_benign_traffic_follows_the_hour_and_has_a_stable_set_of_hosts(draw: Draw) -> None:
    benign = draw(20_000, end=datetime(2025, 12, 20, tzinfo=UTC)).filter(pl.col("label") == "benign")
    hours = dict(benign["timestamp"].dt.hour().value_counts().iter_rows())
    assert hours[10] > 3 * hours[3]
    assert END - timedelta(days=2) < benign["timestamp"][0]
    busiest = benign["src_ip"].value_counts(sort=True)
    assert busiest.height < 100
    assert busiest["count"][0] > 10 * busiest["count"][-1]
    assert benign["bytes"].mean() > 10 * benign["bytes"].median()
    assert {"tcp", "udp", "icmp"} == set(benign["protocol"])
    # a missing duration is a single packet that nobody answered
    silent = benign.filter(pl.col("duration").is_null())
    assert 0.01 < silent.height / benign.height < 0.2
    assert silent.select((pl.col("src_packets") + pl.col("dst_packets")).max()).item() <= 1


def test_each_attack_looks_like_one(draw: Draw) -> None:
    by = {str(label[0]): rows for label, rows in draw(20_000, rate=0.05).partition_by("label", as_dict=True).items()}
    benign = by["benign"]
    scans = by["port_scan"]
    assert scans.select("dst_ip", "dst_port").n_unique() > 0.5 * scans.height
    assert set(scans["conn_state"]) == {"S0", "REJ"}
    assert by["exfiltration"]["src_bytes"].median() > 100 * benign["src_bytes"].quantile(0.9)
    assert by["beaconing"].select("src_ip", "dst_ip").n_unique() == 1
    gaps = by["beaconing"]["timestamp"].diff().drop_nulls().dt.total_seconds()
    assert gaps.quantile(0.75) < 3 * gaps.quantile(0.25)
    flood = by["flood"]
    assert (flood["bytes"] / flood["duration"]).median() > 10 * (benign["bytes"] / benign["duration"]).median()


def test_a_dataset_without_a_generator_is_refused(network_events: Dataset) -> None:
    other = replace(network_events, name="other")
    with pytest.raises(RejectedInput, match="other has no generator"):
        SOURCE.datasets(SyntheticSource(kind="synthetic"), "other", Registry({"other": other}), IngestorSettings())
