"""SILVER has two readers that plan: each is told apart, and neither's plans are taken for the other's."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest

from acequia.datasets import Registry, load_registry
from acequia.events import utc_now
from acequia.layers import Layer, Stem, data_key, folder_key, manifest_key
from acequia.runner import Workshop
from acequia_reconciler.replay import Replay, replay
from acequia_reconciler.sweep import Sweeper
from acequia_reconciler.verify import verify

from .conftest import AT, BUCKETS, DATASET, TABLE, put, stem, taken, write_plan

OLD, NEW = "v1-3fa9c1", "v2-3fa9c1"


@pytest.fixture
def variants() -> Sequence[str]:
    return (OLD, NEW)


@pytest.fixture
def registry() -> Registry:
    return load_registry()


async def silver(workshop: Workshop, made: Stem, variant: str = OLD) -> str:
    await put(workshop, Layer.RAW, data_key(made))
    await put(workshop, Layer.SILVER, data_key(made, variant))
    return BUCKETS.uri(Layer.SILVER, data_key(made, variant))


async def plan(workshop: Workshop, stage: str, number: int, *stems: Stem, variant: str = OLD) -> Stem:
    made = Stem(DATASET, AT, plan=number)
    await write_plan(workshop, made, dict.fromkeys(stems, variant), stage=stage)
    return made


async def committed(workshop: Workshop, made: Stem) -> None:
    await put(workshop, Layer.LAKE, folder_key(made, OLD, "commit.json"), b"{}")


async def proof(workshop: Workshop) -> tuple[dict[str, dict[str, int]], list[str], dict[str, Any]]:
    """Fates by reader of SILVER, orphans, and the result."""
    documents = [document async for document in verify(workshop, TABLE, grace=0, settled=True)]
    result = documents[-1]["result"]
    fates = {
        line["reader"]: {k: v for k, v in line.items() if v and k not in ("layer", "dataset", "reader", "objects")}
        for line in result["sums"]
        if line["layer"] == "silver"
    }
    return fates, [d["orphan"]["uri"] for d in documents if "orphan" in d], result


async def test_what_one_reader_has_done_the_other_may_still_lack(workshop: Workshop) -> None:
    uri = await silver(workshop, stem())
    await committed(workshop, await plan(workshop, "lakehouse", 1, stem()))

    fates, orphans, _ = await proof(workshop)

    assert fates == {"trainer": {"orphans": 1}, "lakehouse": {"done": 1}}
    assert orphans == [uri]
    swept = await Sweeper(workshop, TABLE).sweep(grace=0, at_once=True)
    assert [orphan.queue for orphan in swept.orphans] == ["acequia.trainer"]
    assert len(await taken(workshop, "acequia.trainer")) == 1
    assert await taken(workshop, "acequia.lakehouse") == []


async def test_open_plans_are_told_of_by_their_reader(workshop: Workshop) -> None:
    await silver(workshop, stem())
    await plan(workshop, "trainer", 1, stem())
    await plan(workshop, "lakehouse", 1, stem())

    fates, orphans, result = await proof(workshop)

    assert (fates, orphans) == ({"trainer": {"in_flight": 1}, "lakehouse": {"in_flight": 1}}, [])
    told = [problem for problem in result["problems"] if "are open" in problem]
    assert sorted(told) == [f"1 plans of {DATASET} are open at {stage}" for stage in ("lakehouse", "trainer")]


async def test_a_plan_that_was_rejected_quarantines_its_objects_at_its_reader_alone(workshop: Workshop) -> None:
    await silver(workshop, stem())
    trained = await plan(workshop, "trainer", 1, stem())
    await put(workshop, Layer.MODELS, folder_key(trained, OLD, "model.json"), b"{}")
    rejected = await plan(workshop, "lakehouse", 1, stem())
    await put(workshop, Layer.QUARANTINE, manifest_key("lakehouse", rejected, OLD), b"{}")

    fates, _, _ = await proof(workshop)

    assert fates == {"trainer": {"done": 1}, "lakehouse": {"quarantined": 1}}


async def test_a_newer_variant_that_no_plan_took_is_lost_to_the_lakehouse_and_not_to_the_trainer(
    workshop: Workshop,
) -> None:
    await silver(workshop, stem())
    trained = await plan(workshop, "trainer", 1, stem())
    await put(workshop, Layer.MODELS, folder_key(trained, OLD, "model.json"), b"{}")
    await committed(workshop, await plan(workshop, "lakehouse", 1, stem()))
    newer = await silver(workshop, stem(), NEW)

    fates, orphans, _ = await proof(workshop)

    assert fates == {"trainer": {"done": 2}, "lakehouse": {"done": 1, "orphans": 1}}
    assert [uri for uri in orphans if uri.endswith(".parquet")] == [newer]
    await committed(workshop, await plan(workshop, "lakehouse", 2, stem(), variant=NEW))
    assert (await proof(workshop))[0]["lakehouse"] == {"done": 2}


async def test_a_variant_that_a_newer_one_took_the_place_of_before_any_plan_is_done(workshop: Workshop) -> None:
    await silver(workshop, stem())
    await silver(workshop, stem(), NEW)
    await committed(workshop, await plan(workshop, "lakehouse", 1, stem(), variant=NEW))

    fates, _, _ = await proof(workshop)

    assert fates["lakehouse"] == {"done": 2}


async def sent(workshop: Workshop, asked: Replay) -> dict[str, int]:
    last = [document async for document in replay(workshop, TABLE, asked)][-1]
    result: dict[str, int] = last["result"]
    return result


async def test_a_replay_of_silver_goes_to_both_readers_or_to_the_one_that_is_asked_for(workshop: Workshop) -> None:
    await silver(workshop, stem())

    assert (await sent(workshop, Replay(layer="silver", dataset=DATASET)))["sent"] == 2
    assert len(await taken(workshop, "acequia.trainer.replay")) == 1
    assert len(await taken(workshop, "acequia.lakehouse.replay")) == 1

    assert (await sent(workshop, Replay(layer="silver", dataset=DATASET, reader="lakehouse")))["sent"] == 1
    assert await taken(workshop, "acequia.trainer.replay") == []
    assert len(await taken(workshop, "acequia.lakehouse.replay")) == 1


async def test_the_lakehouses_marks_do_not_wait_for_the_trainer(workshop: Workshop) -> None:
    """What may still come to SILVER is told by RAW, whoever reads it first."""
    now = utc_now().replace(microsecond=0)
    old = Stem(DATASET, datetime(2025, 12, 1, tzinfo=now.tzinfo), "0" * 16, 1)
    await silver(workshop, old)
    await committed(workshop, await plan(workshop, "lakehouse", 1, old))
    sweeper = Sweeper(workshop, TABLE)

    await sweeper.sweep(grace=0)
    second = await sweeper.sweep(grace=0, full=False)

    assert (second.seen["trainer"], second.seen["lakehouse"]) == (1, 0)
