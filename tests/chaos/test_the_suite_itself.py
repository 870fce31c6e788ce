"""A suite that finds nothing must be one that could have: what it compares, and what its proxy does."""

import asyncio
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

import pytest

from chaos.comparison import Observed, compare
from chaos.load import KINDS, Source, draw_sources
from chaos.proxy import Proxy

PREFIX = "chaos"
AT = "network_events/date=2026-01-02"
STEM, PLAN = "network_events_20260102_030405_0123456789abcdef_0001", "network_events_20260102_030406_plan_000001"
RAW, SILVER = f"{AT}/{STEM}.parquet", f"{AT}/{STEM}.v1-aaaaaa.parquet"
MODEL, EVALUATION = f"{AT}/{PLAN}.v1-bbbbbb/model.json", f"{AT}/{PLAN}.v1-cccccc/evaluation.json"
COMMIT = f"{AT}/{PLAN}.v1-eeeeee/commit.json"
SOURCES = [Source(0, "request", "key", rows=10, run_id="run")]


def settled() -> Observed:
    """One request, carried out to its evaluation."""
    outcome = {"kind": "outcome", "rows_in": 10, "rows_out": 9, "rows_duplicate": 1, "rows_rejected": 0}
    layers: dict[str, dict[str, str]] = {
        "landing": {},
        "raw": {RAW: "r"},
        "silver": {SILVER: "s"},
        "models": {MODEL: "m", f"{AT}/{PLAN}.v1-bbbbbb/model-1.skops": "x", "network_events/champion.json": "c"},
        "eval": {EVALUATION: "e"},
        "lake": {COMMIT: "l"},
        "quarantine": {},
        "ledger": {"done/run.json": "d"},
    }
    record = {"rows_in": 10, "rows_out": 10, "outputs": [{"uri": f"s3://{PREFIX}-raw/{RAW}", "etag": "r"}]}
    return Observed(
        layers=layers,
        done=[{"id": "run", "run_id": "run", "status": "SUCCESS", "record": record}],
        plans={1: {"number": 1, "stem": PLAN, "inputs": [{"stem": STEM}]}},
        models={MODEL: {"artifact": {"key": f"{AT}/{PLAN}.v1-bbbbbb/model-1.skops", "sha256": "sum"}}},
        evaluations={EVALUATION: {"model": f"{PLAN}.v1-bbbbbb", "promoted": True}},
        champion={"model": f"{PLAN}.v1-bbbbbb"},
        lake_plans={1: {"number": 1, "stem": PLAN, "inputs": [{"stem": STEM}]}},
        rows=Counter({STEM: 9}),
        sums={f"{AT}/{PLAN}.v1-bbbbbb/model-1.skops": "sum"},
        events=[
            {"kind": "accepted", "stage": "ingestor", "run_id": "run", "stem": None},
            {**outcome, "stage": "ingestor", "run_id": "run", "stem": STEM, "rows_out": 10, "rows_duplicate": 0},
            *({**outcome, "stage": s, "run_id": "run", "stem": STEM} for s in ("transformer",)),
            *({**outcome, "stage": s, "run_id": "other", "stem": PLAN} for s in ("trainer", "lakehouse", "evaluator")),
        ],
        artifacts=[
            (f"s3://{PREFIX}-{layer}/{key}", layers[layer][key])
            for layer, key in (
                ("raw", RAW),
                ("silver", SILVER),
                ("lake", COMMIT),
                ("models", MODEL),
                ("eval", EVALUATION),
            )
        ],
    )


def test_what_was_done_once_gives_no_finding() -> None:
    assert compare(SOURCES, settled(), PREFIX).all == []


def _event(observed: Observed, kind: str, stage: str) -> Any:
    return next(e for e in observed.events if (e["kind"], e["stage"]) == (kind, stage))


LOST: dict[str, Callable[[Observed], Any]] = {
    "a run without an outcome": lambda o: o.done.clear(),
    "an open command": lambda o: o.layers["ledger"].update({"commands/run.json": "c"}),
    "a RAW object": lambda o: o.layers["raw"].clear(),
    "a SILVER object": lambda o: o.layers["silver"].clear(),
    "a plan": lambda o: o.plans.clear(),
    "a model": lambda o: o.layers["models"].pop(MODEL),
    "a plan of the lakehouse": lambda o: o.lake_plans.clear(),
    "a plan's commit": lambda o: o.layers["lake"].clear(),
    "a row of the table": lambda o: o.rows.subtract({STEM: 1}),
    "an evaluation": lambda o: o.layers["eval"].clear(),
    "the champion's evaluation": lambda o: o.champion.update({"model": "another"}),  # type: ignore[union-attr, attr-defined]
    "an acceptance": lambda o: o.events.remove(_event(o, "accepted", "ingestor")),
    **{
        f"an outcome of the {stage}": lambda o, stage=stage: o.events.remove(_event(o, "outcome", stage))
        for stage in ("ingestor", "transformer", "trainer", "lakehouse", "evaluator")
    },
    "an artifact of the index": lambda o: o.artifacts.pop(),
}


@pytest.mark.parametrize("what", LOST)
def test_what_is_missing_is_lost(what: str) -> None:
    observed = settled()
    LOST[what](observed)
    assert compare(SOURCES, observed, PREFIX).lost != []


ANOTHER = "network_events_20260102_030405_fedcba9876543210_0001"
DOUBLED_ARTIFACTS: dict[str, Callable[[Observed], Any]] = {
    "a RAW object of no source": lambda o: o.layers["raw"].update({f"{AT}/{ANOTHER}.parquet": "r"}),
    "two SILVER objects": lambda o: o.layers["silver"].update({f"{AT}/{STEM}.v1-dddddd.parquet": "s"}),
    "a SILVER object of no RAW one": lambda o: o.layers["silver"].update({f"{AT}/{ANOTHER}.v1-aaaaaa.parquet": "s"}),
    "two plans for one object": lambda o: o.plans.update({2: {**o.plans[1], "number": 2}}),
    "a row that is twice in the table": lambda o: o.rows.update({STEM: 1}),
    "a row of no SILVER object": lambda o: o.rows.update({ANOTHER: 1}),
    "two plans of the lakehouse for one object": lambda o: o.lake_plans.update({2: {**o.lake_plans[1], "number": 2}}),
    "two models of one plan": lambda o: o.layers["models"].update({MODEL.replace("bbbbbb", "dddddd"): "m"}),
    "two evaluations": lambda o: o.layers["eval"].update({EVALUATION.replace("cccccc", "dddddd"): "e"}),
}


@pytest.mark.parametrize("what", DOUBLED_ARTIFACTS)
def test_what_is_there_twice_is_a_doubled_artifact(what: str) -> None:
    observed = settled()
    DOUBLED_ARTIFACTS[what](observed)
    assert compare(SOURCES, observed, PREFIX).doubled_artifacts != []


DOUBLED_OUTCOMES: dict[str, Callable[[Observed], Any]] = {
    "two outcomes of one run": lambda o: o.done.append({**o.done[0], "id": "again"}),
    "a run that nobody asked for": lambda o: o.done.append({**o.done[0], "id": "other", "run_id": "other"}),
    "two stored outcomes": lambda o: o.events.append(deepcopy(_event(o, "outcome", "trainer"))),
    "two acceptances": lambda o: o.events.append(deepcopy(_event(o, "accepted", "ingestor"))),
    "an outcome of nothing": lambda o: o.events.append({**_event(o, "outcome", "evaluator"), "stem": "another"}),
    "another etag in the index": lambda o: o.artifacts.append((o.artifacts[0][0], "old")),
}


@pytest.mark.parametrize("what", DOUBLED_OUTCOMES)
def test_what_is_told_twice_is_a_doubled_outcome(what: str) -> None:
    observed = settled()
    DOUBLED_OUTCOMES[what](observed)
    assert compare(SOURCES, observed, PREFIX).doubled_outcomes != []


def _counts(observed: Observed, **counts: int) -> None:
    observed.events[observed.events.index(_event(observed, "outcome", "transformer"))].update(counts)


WRONG: dict[str, Callable[[Observed], Any]] = {
    "a dead letter": lambda o: o.layers["ledger"].update({"dead/transformer/x.json": "d"}),
    "a rejected object": lambda o: o.layers["quarantine"].update(
        {f"transformer/{AT}/{STEM}.v1-aaaaaa.rejected.json": "q"}
    ),
    "rows that do not add up": lambda o: _counts(o, rows_out=8),
    "rows that the source does not have": lambda o: o.done[0]["record"].update(rows_out=9),
    "another object than was told of": lambda o: o.layers["raw"].update({RAW: "changed"}),
    "a model file that was changed": lambda o: o.sums.update(dict.fromkeys(o.sums, "changed")),
    "a rejected request": lambda o: o.done[0].update(status="REJECTED"),  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_not_as_it_should_be_is_wrong(what: str) -> None:
    observed = settled()
    WRONG[what](observed)
    assert compare(SOURCES, observed, PREFIX).wrong != []


def test_the_same_seed_brings_the_same_sources_of_every_kind() -> None:
    assert draw_sources(3, 200) == draw_sources(3, 200)
    assert {source.kind for source in draw_sources(3, 200)} == set(KINDS)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)
    writer.close()


async def test_a_proxy_passes_on_stalls_and_cuts_in_the_middle_of_a_message() -> None:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    proxy = Proxy(Random(1))
    proxy.target = server.sockets[0].getsockname()[1]
    await proxy.open()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        stalling = asyncio.create_task(proxy.stall(0.3))
        await asyncio.sleep(0)
        writer.write(b"later")
        answer = asyncio.create_task(reader.readexactly(5))
        done, _ = await asyncio.wait({answer}, timeout=0.1)
        assert not done
        await stalling
        assert await answer == b"later"
        assert proxy.cut_within(500) == 1
        writer.write(b"x" * 1000)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)) as cut:
            await reader.readexactly(1000)
        assert len(getattr(cut.value, "partial", b"")) < 1000
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"again")
        assert await reader.readexactly(5) == b"again"
        assert proxy.cut_all() == 1
        writer.close()
    finally:
        await proxy.close()
        server.close()
