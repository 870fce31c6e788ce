"""The examples of CONTRIBUTING.md do what the page says."""

import re
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from uuid import UUID

import polars as pl
import pytest

import acequia.datasets
import acequia_ingestor.formats
import acequia_ingestor.sources
from acequia.adapters.directory import DirectoryStore
from acequia.adapters.sqlite import SqliteBus
from acequia.datasets import DELETED, VERSION, Dataset, Registry, load_registry
from acequia.errors import RejectedInput
from acequia.events import ObjectCreated, SourceRequest, to_notification
from acequia.layers import Buckets, Layer, Stem, data_key
from acequia.ports import Ack, Delivery, Message
from acequia.runner import PARQUET, StageRunner, Workshop
from acequia.topology import topology
from acequia.work import Input, Work
from acequia_ingestor.detect import choose_dataset, read_head
from acequia_ingestor.formats import formats_of, load_formats
from acequia_ingestor.parse import parse_file, write_drawn
from acequia_ingestor.settings import IngestorSettings
from acequia_ingestor.sources import load_sources, read_request
from acequia_ingestor.sources.postgres import packs
from acequia_trainer.settings import TrainerSettings
from acequia_trainer.train import train
from acequia_transformer.transform import transform

from .conftest import ROOT, blocks

AT = datetime(2025, 12, 20, 12, 0, tzinfo=UTC)


def example(file: str) -> str:
    """The code block that begins with the file's path."""
    (found,) = (b for b in blocks("CONTRIBUTING.md", "python") if re.match(rf"# \S*/{re.escape(file)}\n", b))
    return found


def sample(first_column: str) -> str:
    (found,) = (b for b in blocks("CONTRIBUTING.md", "csv") if b.startswith(first_column))
    return found


def load(name: str, source: str) -> ModuleType:
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, name, "exec"), module.__dict__)
    return module


@pytest.fixture(autouse=True)
def only_examples_are_forgotten() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("example_", "acequia_masker")) or name.endswith((".flow_csv", ".invoices", ".port_scan")):
            del sys.modules[name]


def stem_of(dataset: str) -> Stem:
    return Stem(dataset, AT, "9f2c4e1a7b3d5e60", 1)


def work_of(stage: str, dataset: str, layer: Layer, path: Path) -> Work:
    source = Input(layer, path.name, "etag", f"s3://test/{path.name}", path.stat().st_size, None)
    return Work(stage, "v1-3fa9c1", stem_of(dataset), dataset, UUID(int=1), (source,))


def test_the_dataset_of_the_example_goes_through_ingestion_transformation_and_training(tmp_path: Path) -> None:
    dataset: Dataset = load("example_logins", example("logins.py")).DATASET
    registry = Registry({dataset.name: dataset})
    source = tmp_path / "logins.csv"
    source.write_text(sample("timestamp,user"))

    parsed = parse_file(source, source.name, dataset, None, tmp_path / "raw")
    assert (parsed.format, parsed.rows_in, parsed.rejected) == ("canonical_csv", 4, {"unparsable_attempts": 1})

    (out := tmp_path / "silver").mkdir()
    raw = parsed.parts[0].path
    silver = transform(
        work_of("transformer", dataset.name, Layer.RAW, raw), [raw], out, registry=registry, burst_seconds=60
    )
    assert (silver.rows_out, silver.rejected) == (2, {"attempts_positive": 1})
    assert silver.output is not None

    (out := tmp_path / "models").mkdir()
    work = work_of("trainer", dataset.name, Layer.SILVER, silver.output)
    model = train(work, [silver.output], out, registry=registry, settings=TrainerSettings(n_estimators=5))
    assert model.document is not None
    assert model.document["features"] == ["attempts", "seconds"]
    assert model.document["holdout"]["scope"] == "in_sample"


def put_beside(package: ModuleType, file: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example as one file more of the package; nothing else is changed."""
    (folder / file).write_text(example(file))
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])


def test_the_table_of_the_example_is_a_dataset_by_one_file_with_its_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_beside(acequia.datasets, "invoices.py", tmp_path, monkeypatch)
    registry = load_registry()
    dataset = registry["invoices"]
    assert dataset.table is not None
    assert packs(registry)["billing"] == ("invoices",)
    assert "CREATE TABLE invoices" in "".join(blocks("CONTRIBUTING.md", "sql"))

    rows = [(1, "ana", Decimal("9.50"), "open"), (2, "ben", Decimal(12), "paid"), (3, "cho", Decimal(-1), "paid")]
    frame = pl.DataFrame(
        [dict(zip(dataset.schema, (*row, AT), strict=True)) | {VERSION: 1, DELETED: False} for row in rows],
        schema=dict(dataset.stored_schema),
    )
    frame.write_parquet(raw := tmp_path / "raw.parquet")
    (out := tmp_path / "silver").mkdir()
    work = work_of("transformer", dataset.name, Layer.RAW, raw)
    silver = transform(work, [raw], out, registry=registry, burst_seconds=60)
    assert (silver.rows_out, silver.rejected) == (2, {"amount_range": 1})


def test_the_source_of_the_example_is_found_by_its_file_and_draws_rows_that_keep_the_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_beside(acequia_ingestor.sources, "port_scan.py", tmp_path, monkeypatch)
    sources, registry = load_sources(), load_registry()
    source, asked = read_request(SourceRequest.model_validate({"kind": "port_scan", "ports": 500}), sources)
    assert source.datasets(asked, "network_events", registry, IngestorSettings()) == ("network_events",)
    with pytest.raises(RejectedInput, match="not logins"):
        source.datasets(asked, "logins", registry, IngestorSettings())
    assert source.draw is not None

    dataset = registry["network_events"]
    drawn = write_drawn(source.draw(asked, dataset, AT), dataset, source.name, tmp_path / "raw", rows_per_part=200)
    assert [part.rows for part in drawn.parts] == [200, 200, 100]
    for part in drawn.parts:
        _, failure = dataset.contract.filter(pl.read_parquet(part.path).drop("_line"))
        assert failure.counts() == {}


def test_the_format_of_the_example_is_found_by_its_file_detected_alone_and_reads_its_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder := tmp_path / "formats").mkdir()
    put_beside(acequia_ingestor.formats, "flow_csv.py", folder, monkeypatch)
    formats, registry = load_formats(), load_registry()
    flow, dataset = formats["flow_csv"], registry["network_events"]
    assert flow.name in formats_of(dataset, formats)
    source = tmp_path / "flows.csv"
    source.write_text(sample("start,"))

    assert choose_dataset(None, "flows.csv", read_head(source), registry, formats) is dataset
    assert parse_file(source, source.name, dataset, None, tmp_path / "raw").format == flow.name
    assert "a side that is null adds nothing" in flow.description
    (chunk,) = flow.read(source, dataset)
    assert chunk.records == 3
    assert chunk.rejected["rule"].to_list() == ["unparsable_src_bytes"]
    assert chunk.rows["bytes"].to_list() == [1520, 84]
    assert chunk.rows["duration"].to_list() == [0.31, None]
    assert chunk.rows["protocol"].to_list() == ["tcp", "udp"]
    assert chunk.rows.columns == [*dataset.schema, "_line", "_record"]


async def test_the_stage_of_the_example_is_carried_by_the_runner(tmp_path: Path) -> None:
    load("acequia_masker", "")
    load("acequia_masker.mask", example("mask.py"))
    settings = load("acequia_masker.settings", example("settings.py"))
    # the example's own layer is not there: EVAL stands for it
    described = example("stage.py").replace("Layer.MASKED", "Layer.EVAL")
    stage = load("acequia_masker.stage", described).build_stage(settings.MaskerSettings(octets=2))
    registry = load_registry()
    dataset = registry["network_events"]
    readers = Registry({dataset.name: replace(dataset, readers=dataset.readers | {"masker"})})
    buckets = Buckets("test")
    bus = await SqliteBus.open(tmp_path / "bus.sqlite")
    store = await DirectoryStore.open(tmp_path / "store", buckets, bus)
    table = topology(buckets)
    await bus.apply(table)
    await store.apply(table)
    workshop = Workshop(store, bus, buckets, readers, temp_dir=tmp_path)
    raw = tmp_path / "raw.parquet"
    pl.DataFrame({"_line": [1, 2], "src_ip": ["10.1.2.3", "::1"], "dst_ip": ["192.0.2.10", None]}).write_parquet(raw)
    key = data_key(stem_of(dataset.name))
    try:
        info = await store.put(Layer.RAW, key, raw, metadata={}, content_type=PARQUET)
        event = ObjectCreated(layer=Layer.RAW, bucket=buckets.of(Layer.RAW), key=key, etag=info.etag, size=info.bytes)
        runner = StageRunner(stage, workshop)
        await runner.start()
        assert await runner.handle(Delivery("acequia.masker", Message(to_notification(event)))) == Ack()
        await store.get(Layer.EVAL, data_key(stem_of(dataset.name), stage.variant), tmp_path / "masked.parquet")
    finally:
        await bus.close()
        await store.close()
    masked = pl.read_parquet(tmp_path / "masked.parquet")
    assert masked["src_ip"].to_list() == ["10.1.0.0", "::1"]
    assert masked["dst_ip"].to_list() == ["192.0.0.0", None]


def test_the_service_of_the_example_imports_what_there_is() -> None:
    load("acequia_masker", "")
    load("acequia_masker.mask", example("mask.py"))
    load("acequia_masker.settings", example("settings.py"))
    load("acequia_masker.stage", example("stage.py"))
    main = load("acequia_masker.__main__", example("__main__.py"))
    assert callable(main.build)


def test_each_service_and_that_of_the_example_import_early_before_all_else_of_ours() -> None:
    mains = [path.read_text() for path in (ROOT / "services").glob("*/src/*/__main__.py")]
    assert len(mains) == 7
    for source in (*mains, example("__main__.py")):
        ours = re.findall(r"^(?:import|from) (acequia\S*)", source, re.MULTILINE)
        assert ours[0] == "acequia._early", source


def test_the_service_of_the_example_is_started_as_the_others_are() -> None:
    started = re.findall(r"serve\(.*\)", example("__main__.py"))
    transformer = (ROOT / "services/transformer/src/acequia_transformer/__main__.py").read_text()
    assert started == [
        call.replace("transformer", "masker").replace("Transformer", "Masker")
        for call in re.findall(r"serve\(.*\)", transformer)
    ]
