"""The sample files: the same for a seed, in all the habits that the parser has to know, and read as they were meant."""

import json
from pathlib import Path

import polars as pl
import pytest

from acequia.datasets import load_registry
from acequia_cli.commands import Output
from acequia_cli.samples import HABITS, Sample, WriteOilfieldSamples, draw_oilfield
from acequia_ingestor.parse import parse_file

REGISTRY = load_registry()
DRAWN = list(draw_oilfield(8, 3, 7))


@pytest.mark.parametrize("sample", DRAWN, ids=lambda sample: f"{sample.habit.name}-{sample.dataset}")
def test_what_was_drawn_is_what_is_read_whoever_exported_it(sample: Sample, tmp_path: Path) -> None:
    dataset = REGISTRY[sample.dataset]
    (tmp_path / "file").write_bytes(sample.content)
    parsed = parse_file(tmp_path / "file", sample.name, dataset, None, tmp_path / "out")
    read = pl.concat([pl.read_parquet(part.path) for part in parsed.parts]).drop("_line")
    meant = pl.DataFrame(sample.rows, schema=dict(dataset.schema)).with_columns(
        pl.col(sorted(dataset.lowered)).str.to_lowercase()
    )
    assert read.equals(meant)
    assert sum(parsed.rejected.values()) == sample.unreadable
    assert dataset.contract.filter(read)[0].height == len(sample.rows) - sample.invalid


def test_each_dataset_is_written_in_each_habit() -> None:
    assert {(s.dataset, s.habit.name) for s in DRAWN} == {
        (dataset, habit.name) for dataset in ("sensor_data", "equipos", "eventos") for habit in HABITS
    }
    assert {s.habit.encoding for s in DRAWN} == {"utf-8", "utf-8-sig", "latin-1", "cp1252"}
    assert sum(s.unreadable for s in DRAWN) > 0 < sum(s.invalid for s in DRAWN)
    assert any(b'"' in s.content and b"vibraci" in s.content and b"\n\n" in s.content for s in DRAWN)


def test_a_seed_gives_the_same_bytes_and_another_one_others() -> None:
    again, other = list(draw_oilfield(8, 3, 7)), list(draw_oilfield(8, 3, 8))
    assert [s.content for s in again] == [s.content for s in DRAWN]
    assert all(one.content != another.content for one, another in zip(DRAWN, other, strict=True))
    assert [s.name for s in draw_oilfield(2, 3, 7)] == [s.name for s in DRAWN[:6]]


async def test_the_command_writes_them_into_a_folder_that_it_makes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await WriteOilfieldSamples(tmp_path / "a" / "b", 2, 1, 7).run(Output.open(as_json=True)) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert sorted(Path(file["path"]).name for file in files) == sorted(p.name for p in (tmp_path / "a" / "b").iterdir())
    assert [file["dataset"] for file in files] == ["sensor_data", "equipos", "eventos"] * 2
