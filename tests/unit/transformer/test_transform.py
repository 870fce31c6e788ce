import io
import os
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from acequia.datasets import Dataset
from acequia.layers import Layer
from acequia.work import Outcome, RejectedWhole
from acequia_transformer.features.network_events import NAMES
from acequia_transformer.settings import TransformerSettings
from acequia_transformer.stage import build_stage

from .conftest import START, Raw, Transform


def silver(outcome: Outcome) -> pl.DataFrame:
    assert outcome.output is not None
    return pl.read_parquet(outcome.output)


def at(seconds: float) -> dict[str, Any]:
    return {"timestamp": START + timedelta(seconds=seconds)}


OFTEN = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

EVENTS = st.lists(
    st.fixed_dictionaries(
        {
            "timestamp": st.integers(0, 200).map(lambda s: START + timedelta(seconds=s)),
            "src_ip": st.sampled_from(["10.0.0.1", "10.0.0.2", "fe80::1"]),
            "dst_ip": st.sampled_from(["10.0.0.2", "10.0.0.3", "2001:db8::1"]),
            "bytes": st.sampled_from([0, 1, 1500, 10**12]),
            "duration": st.sampled_from([None, 0.0, 0.25, 3600.0]),
            "protocol": st.sampled_from(["tcp", "udp"]),
            "dst_port": st.sampled_from([None, 22, 443]),
        }
    ),
    min_size=1,
    max_size=30,
)
FAULTS = st.sampled_from(
    [{}, {}, {}, {"bytes": -1}, {"src_ip": None}, {"duration": -2.0, "protocol": "TCP!"}, {"dst_port": 70000}]
)


@OFTEN
@given(events=EVENTS, faults=st.lists(FAULTS, min_size=30, max_size=30))
def test_every_row_is_in_silver_or_duplicate_or_rejected_and_never_in_two(
    run: Transform, raw: Raw, events: list[dict[str, Any]], faults: list[dict[str, Any]]
) -> None:
    frame = raw([{**e, **f} for e, f in zip(events, faults, strict=False)])
    broken = sum(bool(f) for f in faults[: len(events)])
    try:
        outcome = run(frame)
    except RejectedWhole as whole:
        assert broken * 2 > len(events)
        assert whole.rows_in == sum(whole.rejected.values()) == len(events)
        assert pl.read_parquet(whole.beside[0].path).height == len(events)
        return
    assert outcome.rows_in == len(events)
    assert outcome.rows_in == outcome.rows_out + outcome.rows_duplicate + sum(outcome.rejected.values())
    kept = silver(outcome)
    assert kept.height == outcome.rows_out
    assert sum(outcome.rejected.values()) == broken
    lines = kept["_line"].to_list()
    if broken:
        lines += pl.read_parquet(outcome.beside[0].path)["_line"].to_list()
    assert max(Counter(lines).values()) == 1
    assert len(lines) == len(events) - outcome.rows_duplicate


@OFTEN
@given(events=EVENTS, later=EVENTS)
def test_later_rows_never_change_the_features_of_earlier_ones(
    run: Transform, raw: Raw, events: list[dict[str, Any]], later: list[dict[str, Any]]
) -> None:
    # the time of the last row, too, may come again: the line then says who was first
    last = max(e["timestamp"] for e in events)
    moved = [{**e, "timestamp": max(last, e["timestamp"])} for e in later]
    causal = ["_line", *(n for n in NAMES if n != "protocol_rarity")]
    before = silver(run(raw(events))).select(causal)
    after = silver(run(raw([*events, *moved]))).select(causal).head(before.height)
    assert_frame_equal(before, after, check_exact=True)


@OFTEN
@given(events=EVENTS)
def test_the_counted_features_are_what_counting_by_hand_gives(
    run: Transform, raw: Raw, events: list[dict[str, Any]]
) -> None:
    rows = silver(run(raw(events), burst_seconds=60)).with_columns(
        pl.col("log_fan_out", "log_ports_seen", "log_recent_events").exp() - 1
    )
    past: list[dict[str, Any]] = []
    for row in rows.iter_rows(named=True):
        mine = [p for p in past if p["src_ip"] == row["src_ip"]]
        recent = [p for p in mine if p["timestamp"] > row["timestamp"] - timedelta(seconds=60)]
        destinations = {p["dst_ip"] for p in mine}
        ports = {p["dst_port"] for p in [*mine, row]} - {None}
        assert row["new_destination"] == (row["dst_ip"] not in destinations)
        assert row["log_fan_out"] == pytest.approx(len(destinations | {row["dst_ip"]}))
        assert row["log_recent_events"] == pytest.approx(len(recent))
        assert row["log_ports_seen"] == (None if row["dst_port"] is None else pytest.approx(len(ports)))
        past.append(row)


def test_the_same_rows_give_the_same_bytes_with_one_thread_and_with_four(
    run: Transform, raw: Raw, tmp_path: Any
) -> None:
    frame = raw(
        [
            {**at(n * 37 % 5000), "src_ip": f"10.0.{n % 7}.1", "dst_ip": f"10.1.{n % 11}.{n % 200}", "bytes": n}
            for n in range(20_000)
        ]
        + [{"bytes": -1}] * 5
    )
    here = run(frame)
    frame.write_parquet(tmp_path / "raw.parquet")
    script = (
        "import sys; from pathlib import Path; from uuid import UUID; from datetime import datetime, UTC\n"
        "from acequia.datasets import load_registry; from acequia.layers import Stem; from acequia.work import Work\n"
        "from acequia_transformer.transform import transform\n"
        "folder = Path(sys.argv[1]); out = folder / sys.argv[2]; out.mkdir()\n"
        "stem = Stem('network_events', datetime(2025, 12, 20, 12, 0, tzinfo=UTC), '9f2c4e1a7b3d5e60', 1)\n"
        "work = Work('transformer', 'v1-3fa9c1', stem, 'network_events', UUID(int=1), ())\n"
        "transform(work, [folder / 'raw.parquet'], out, registry=load_registry(), burst_seconds=60)\n"
    )
    for threads in ("1", "4"):
        env = {**os.environ, "POLARS_MAX_THREADS": threads}
        subprocess.run([sys.executable, "-c", script, str(tmp_path), threads], env=env, check=True)
        assert here.output is not None
        assert (tmp_path / threads / "silver.parquet").read_bytes() == here.output.read_bytes()
        assert (tmp_path / threads / "rejected.parquet").read_bytes() == here.beside[0].path.read_bytes()


def test_a_duplicate_equals_in_every_canonical_column_and_the_first_line_stays(run: Transform, raw: Raw) -> None:
    outcome = run(raw([{}, {"bytes": 7}, {}, {"label": None}, {}]))
    assert outcome.rows_duplicate == 2
    assert silver(outcome)["_line"].to_list() == [1, 2, 4]


def test_a_rejected_row_counts_once_under_the_first_rule_and_all_its_rules_are_told(run: Transform, raw: Raw) -> None:
    outcome = run(raw([{}, {"bytes": 5}, {"bytes": 6}, {"bytes": -1, "protocol": None, "src_ip": "nowhere"}]))
    assert outcome.rejected == {"src_ip_valid": 1}
    (beside,) = outcome.beside
    assert beside.layer is Layer.QUARANTINE
    assert beside.key == (
        "transformer/network_events/date=2025-12-20/"
        "network_events_20251220_120000_9f2c4e1a7b3d5e60_0001.v1-3fa9c1.rows.parquet"
    )
    row = pl.read_parquet(beside.path).row(0, named=True)
    assert (row["_line"], row["rule"]) == (4, "src_ip_valid")
    assert row["rules"] == ["src_ip_valid", "bytes_negative", "protocol_missing"]
    assert row["src_ip"] == "nowhere"


def test_an_object_of_which_more_than_the_share_breaks_is_rejected_whole_with_all_its_rows(
    run: Transform, raw: Raw
) -> None:
    with pytest.raises(RejectedWhole) as caught:
        run(raw([{"bytes": -1}, {"protocol": None}, {"bytes": -1}, {}]))
    whole = caught.value
    assert whole.rule == "too_many_rejected"
    assert whole.rows_in == 4
    assert whole.rejected == {"bytes_negative": 2, "protocol_missing": 1, "too_many_rejected": 1}
    assert "3 of 4" in whole.reason
    assert "bytes_negative 2" in whole.reason
    assert pl.read_parquet(whole.beside[0].path)["_line"].to_list() == [1, 2, 3, 4]


def test_half_of_the_rows_broken_is_still_accepted(run: Transform, raw: Raw) -> None:
    assert run(raw([{"bytes": -1}, {}])).rows_out == 1


def test_an_object_of_which_no_row_survives_is_rejected_whole(run: Transform, raw: Raw) -> None:
    with pytest.raises(RejectedWhole) as caught:
        run(raw([{"bytes": -1}, {"bytes": -2}]))
    assert caught.value.rule == "no_rows"
    assert caught.value.rejected == {"bytes_negative": 2}
    assert pl.read_parquet(caught.value.beside[0].path).height == 2


def test_an_empty_object_is_rejected_whole(run: Transform, raw: Raw) -> None:
    with pytest.raises(RejectedWhole, match="no_rows"):
        run(raw([]))


def test_a_file_that_is_no_parquet_is_rejected_whole(run: Transform) -> None:
    with pytest.raises(RejectedWhole, match="not_canonical"):
        run(b"timestamp,src_ip\n")


def test_a_truncated_file_is_rejected_whole(run: Transform, raw: Raw) -> None:
    buffer = io.BytesIO()
    raw([{"bytes": n} for n in range(2000)]).write_parquet(buffer)
    with pytest.raises(RejectedWhole, match="not_canonical"):
        run(buffer.getvalue()[:-100])


@pytest.mark.parametrize("said", ["Too many open files (os error 24)", "No space left on device (os error 28)"])
def test_a_sound_file_is_not_rejected_for_what_this_machine_lacks(
    run: Transform, raw: Raw, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    def lacks(*_: object, **__: object) -> None:
        raise pl.exceptions.ComputeError(said)

    sound = raw([{"bytes": 1}])
    monkeypatch.setattr(pl, "scan_parquet", lacks)
    with pytest.raises(pl.exceptions.ComputeError, match="os error"):
        run(sound)


def test_damage_inside_a_file_is_rejected_whole_with_its_rows_counted(run: Transform, raw: Raw) -> None:
    buffer = io.BytesIO()
    raw([{"bytes": n * 7919, "src_port": n} for n in range(5000)]).write_parquet(buffer, compression="zstd")
    data = bytearray(buffer.getvalue())
    data[100:3000] = bytes(2900)
    with pytest.raises(RejectedWhole) as caught:
        run(bytes(data))
    assert caught.value.rule == "not_canonical"
    assert caught.value.rows_in == sum(caught.value.rejected.values()) == 5000


def test_another_dataset_s_columns_are_rejected_with_their_names(run: Transform, raw: Raw) -> None:
    with pytest.raises(RejectedWhole) as caught:
        run(raw([{}, {}]).drop("protocol").cast({"bytes": pl.String}))
    assert "bytes is String" in caught.value.reason
    assert "protocol is missing" in caught.value.reason
    assert caught.value.rejected == {"not_canonical": 2}


def test_silver_is_sorted_by_time_then_line_and_tells_its_time_range(run: Transform, raw: Raw) -> None:
    outcome = run(raw([at(20), {**at(10), "bytes": 1}, {**at(10), "bytes": 2}, at(0)]))
    assert silver(outcome)["_line"].to_list() == [4, 2, 3, 1]
    assert outcome.time_range == ("2025-12-20T12:00:00+00:00", "2025-12-20T12:00:20+00:00")


def test_silver_has_the_line_the_canonical_columns_and_the_features_in_this_order(
    run: Transform, raw: Raw, dataset: Dataset
) -> None:
    assert silver(run(raw([{}]))).columns == ["_line", *dataset.schema, *NAMES]


def test_the_features_that_models_are_trained_on_are_made_here(dataset: Dataset) -> None:
    assert dataset.features
    assert set(dataset.features) <= set(NAMES)


def test_what_was_not_measured_is_null_and_flagged(run: Transform, raw: Raw) -> None:
    rows = silver(run(raw([{**at(0), "duration": None, "dst_port": None}, {**at(1), "duration": 0.0}])))
    missing, zero = rows.iter_rows(named=True)
    assert (missing["duration_missing"], missing["duration_zero"]) == (1, 0)
    assert missing["log_duration"] is missing["log_bytes_rate"] is missing["log_ports_seen"] is None
    assert (zero["duration_missing"], zero["duration_zero"]) == (0, 1)
    assert zero["log_duration"] == 0.0
    assert zero["log_bytes_rate"] is None


def test_no_feature_is_ever_nan_or_infinite(run: Transform, raw: Raw) -> None:
    rows = silver(
        run(
            raw(
                [
                    {**at(0), "bytes": 0, "duration": 0.0},
                    {**at(0), "bytes": 2**62, "duration": 5e-324},
                    {**at(0), "bytes": 0, "duration": 1e300},
                ]
            )
        )
    )
    for name in NAMES:
        values = rows[name].drop_nulls().cast(pl.Float64)
        assert values.is_finite().all(), name


def test_intervals_are_of_the_source_and_of_the_pair(run: Transform, raw: Raw) -> None:
    other = "10.0.0.9"
    rows = silver(run(raw([at(0), {**at(2), "dst_ip": other}, at(10), at(18), {**at(18), "src_ip": other}])))
    second = 1e-6
    source = (rows["source_interval"].exp() - second).to_list()
    pair = (rows["pair_interval"].exp() - second).to_list()
    assert source == [None, pytest.approx(2), pytest.approx(8), pytest.approx(8), None]
    assert pair == [None, None, pytest.approx(10), pytest.approx(8), None]
    change = rows["pair_interval_change"].to_list()
    assert change[:3] == [None, None, None]
    assert change[3] == pytest.approx(0.2231, abs=1e-4)  # ln(10) - ln(8)


def test_a_protocol_is_rarer_the_smaller_its_share(run: Transform, raw: Raw) -> None:
    rows = silver(run(raw([{**at(n), "protocol": "udp" if n == 3 else "tcp"} for n in range(4)])))
    assert rows["protocol_rarity"].to_list() == [pytest.approx(0.28768, abs=1e-5)] * 3 + [
        pytest.approx(1.38629, abs=1e-5)
    ]


def test_another_setting_gives_another_variant() -> None:
    from acequia.datasets import load_registry

    registry = load_registry()
    one = build_stage(TransformerSettings(burst_seconds=60), registry)
    assert one.variant == build_stage(TransformerSettings(), registry).variant
    assert one.variant != build_stage(TransformerSettings(burst_seconds=30), registry).variant
