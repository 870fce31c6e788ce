import io
from typing import Any

from rich.console import Console

from acequia_cli.lineage import print_lineage

from .conftest import EVALUATION, MODEL, RAW, RUN, SILVER, TRAINING


def node(uri: str, depth: int, **more: Any) -> dict[str, Any]:
    layer = uri.split("/")[2].rpartition("-")[2]
    return {
        "uri": uri,
        "etag": "e",
        "layer": layer,
        "depth": depth,
        "run_id": RUN,
        "stage": "a stage",
        "variant": "v1-aaaaaa",
        "rows": None,
        "created": "2025-12-20T12:12:10Z",
        "parameters": {},
        "metrics": {},
        **more,
    }


def edge(given: str, made: str) -> dict[str, str]:
    return {"input": given, "output": made}


LINEAGE: dict[str, Any] = {
    "node": "m",
    "nodes": [
        node(RAW, -2, parameters={"source": {"kind": "synthetic", "seed": 7}}),
        node(SILVER, -1, rows=10),
        node(MODEL, 0, run_id=TRAINING, parameters={"n_estimators": 100}),
        node(EVALUATION, 1, run_id=TRAINING, metrics={"roc_auc": 0.97123}),
    ],
    "edges": [edge(RAW, SILVER), edge(SILVER, MODEL), edge(MODEL, EVALUATION), edge(SILVER, EVALUATION)],
}


def drawn(lineage: dict[str, Any], **more: Any) -> list[str]:
    console = Console(file=io.StringIO(), width=40)
    print_lineage(console, lineage, **more)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_chain_reads_from_the_source_to_the_evaluation():
    lines = drawn(LINEAGE)

    objects = [line for line in lines if "s3://" in line]
    assert [line.split("s3://")[1].split()[0] for line in objects] == [
        uri.removeprefix("s3://") for uri in (RAW, SILVER, MODEL, EVALUATION)
    ]
    depths = [len(line) - len(line.lstrip(" │├└─")) for line in objects]
    assert depths == sorted(set(depths))


def test_uris_are_whole_on_a_narrow_terminal():
    assert any(EVALUATION in line for line in drawn(LINEAGE))


def test_parameters_metrics_and_runs_are_told():
    text = "\n".join(drawn(LINEAGE))

    assert "source.kind=synthetic, source.seed=7" in text
    assert "n_estimators=100" in text
    assert "roc_auc=0.9712" in text
    assert f"run {TRAINING}" in text


def test_what_was_asked_for_is_marked():
    assert [line for line in drawn(LINEAGE) if "asked for" in line] == [
        line for line in drawn(LINEAGE) if MODEL in line
    ]


def test_a_model_of_two_sources_is_drawn_once_though_one_is_further_away():
    landing, other = "s3://cybersec-ml-landing/x/conn.log", SILVER.replace("a_0001", "b_0001")
    lineage = {
        **LINEAGE,
        "nodes": [*LINEAGE["nodes"], node(landing, -3, run_id=None, stage=None), node(other, -1, run_id="another")],
        "edges": [*LINEAGE["edges"], edge(landing, RAW), edge(other, MODEL)],
    }

    lines = drawn(lineage)

    assert sum(MODEL in line for line in lines) == 1
    assert sum("(see above)" in line for line in lines) == 1


def test_the_sources_of_other_runs_are_counted_where_one_run_is_asked_for():
    other = SILVER.replace("a_0001", "b_0001")
    lineage = {
        **LINEAGE,
        "nodes": [*LINEAGE["nodes"], node(other, -1, run_id="another")],
        "edges": [*LINEAGE["edges"], edge(other, MODEL)],
    }

    lines = drawn(lineage, only_run=RUN)

    assert not any(other in line for line in lines)
    assert lines[-1].startswith("and 1 earlier source")


def test_a_cycle_ends():
    lineage = {**LINEAGE, "edges": [edge(RAW, SILVER), edge(SILVER, RAW)]}

    assert any(MODEL in line for line in drawn(lineage))
