"""Each object has one fate at its reader, with its reason; the sums add up; what is lost is named."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from acequia.datasets import Registry
from acequia.layers import (
    Layer,
    Stem,
    command_key,
    data_key,
    dead_key,
    done_key,
    folder_key,
    manifest_key,
    plan_key,
    rejected_rows_key,
)
from acequia.ports import Message, ObjectInfo
from acequia.runner import Workshop, foreign_stem
from acequia.topology import READERS, dead_queue, replay_queue
from acequia_reconciler import census
from acequia_reconciler.verify import verify

from .conftest import AT, BUCKETS, DATASET, PLAN, TABLE, climb, landed, put, stem, write, write_command, write_plan

OLD, NEW = "v1-000000", "v2-3fa9c1"


@pytest.fixture
def variants() -> Sequence[str]:
    return OLD, NEW


async def prove(workshop: Workshop, *, grace: float = 0, settled: bool = False) -> tuple[Any, dict[str, Any]]:
    """The result, and the reasons of the orphans by uri."""
    documents = [d async for d in verify(workshop, TABLE, grace=grace, settled=settled)]
    assert all(len(d) == 1 for d in documents)
    assert "result" in documents[-1]
    orphans = {d["orphan"]["uri"]: d["orphan"] for d in documents if "orphan" in d}
    return documents[-1]["result"], orphans


async def sums(workshop: Workshop, reader: str, **asked: Any) -> dict[str, Any]:
    """The one line of the reader, without what is 0."""
    result, _ = await prove(workshop, **asked)
    (line,) = [line for line in result["sums"] if line["reader"] == reader]
    assert line["objects"] == sum(line[fate.value] for fate in census.Fate)
    return {k: v for k, v in line.items() if v and k not in ("layer", "reader", "dataset")}


async def put_plan(workshop: Workshop, number: int, *stems: Stem) -> Stem:
    made = Stem(DATASET, AT + timedelta(hours=number), plan=number)
    await write_plan(workshop, made, dict.fromkeys(stems, NEW))
    return made


async def put_model(workshop: Workshop, plan: Stem, variant: str = NEW, *, file: bool = True) -> ObjectInfo:
    key = folder_key(plan, variant, "model-abc.skops")
    if file:
        await put(workshop, Layer.MODELS, key)
    await put(workshop, Layer.MODELS, folder_key(plan, variant, "model-another.skops"))
    return await write(workshop, Layer.MODELS, folder_key(plan, variant, "model.json"), {"artifact": {"key": key}})


async def put_done(workshop: Workshop, id: UUID, *outputs: str, status: str = "SUCCESS", **more: Any) -> None:
    uris = [{"uri": f"s3://test-{place}"} for place in outputs]
    document = {"id": str(id), "dataset": DATASET, "status": status, "record": {"outputs": uris}, **more}
    await write(workshop, Layer.LEDGER, done_key(id), document)


# one to one: transformer and evaluator


@pytest.mark.parametrize("variant", [OLD, NEW])
async def test_an_object_with_a_commit_object_of_any_variant_is_done(workshop: Workshop, variant: str) -> None:
    await put(workshop, Layer.RAW, data_key(stem()))
    await put(workshop, Layer.SILVER, data_key(stem(), variant))
    assert await sums(workshop, "transformer") == {"objects": 1, "done": 1}


async def test_done_comes_before_quarantined_and_quarantined_before_dead(workshop: Workshop) -> None:
    await put(workshop, Layer.RAW, data_key(stem()))
    await put(workshop, Layer.LEDGER, dead_key("transformer", str(stem()), OLD))
    assert await sums(workshop, "transformer") == {"objects": 1, "dead": 1}
    await put(workshop, Layer.QUARANTINE, manifest_key("transformer", stem(), OLD))
    assert await sums(workshop, "transformer") == {"objects": 1, "quarantined": 1}
    await put(workshop, Layer.SILVER, data_key(stem(), NEW))
    assert await sums(workshop, "transformer") == {"objects": 1, "done": 1}


async def test_rejected_rows_are_no_outcome_and_a_dead_letter_of_another_stage_is_none(workshop: Workshop) -> None:
    info = await put(workshop, Layer.RAW, data_key(stem()))
    await put(workshop, Layer.QUARANTINE, rejected_rows_key("transformer", stem(), NEW))
    await put(workshop, Layer.LEDGER, dead_key("evaluator", str(stem()), NEW))
    await put(workshop, Layer.LEDGER, dead_key("transformer", str(Stem("network_events_2", AT, "0" * 16, 1))))
    result, orphans = await prove(workshop)
    assert not result["ok"]
    assert result["problems"] == ["1 orphan: nobody is at work on that"]
    (orphan,) = orphans.values()
    assert orphan["since"] == info.last_modified.astimezone(UTC).isoformat()
    assert {k: orphan[k] for k in ("layer", "dataset", "reader", "uri", "reason")} == {
        "layer": "raw",
        "dataset": DATASET,
        "reader": "transformer",
        "uri": info.uri,
        "reason": "no commit object, manifest or dead letter of any variant",
    }


async def test_an_evaluation_without_its_report_is_an_orphan_that_says_so(workshop: Workshop) -> None:
    info = await put_model(workshop, PLAN)
    await put(workshop, Layer.EVAL, folder_key(PLAN, NEW, "evaluation.json"))
    _, orphans = await prove(workshop)
    assert orphans[info.uri]["reason"] == "its commit object stands, but report.html beside it is missing"
    await put(workshop, Layer.EVAL, folder_key(PLAN, NEW, "report.html"))
    assert await sums(workshop, "evaluator") == {"objects": 1, "done": 1}


async def test_two_variants_of_a_stem_share_its_outcomes(workshop: Workshop) -> None:
    for variant in (OLD, NEW):
        await put_model(workshop, PLAN, variant)
        await put(workshop, Layer.SILVER, data_key(stem(), variant))
    for file in ("evaluation.json", "report.html"):
        await put(workshop, Layer.EVAL, folder_key(PLAN, NEW, file))
    await put(workshop, Layer.LEDGER, dead_key("trainer", str(stem()), NEW))
    assert await sums(workshop, "evaluator") == {"objects": 2, "done": 2}
    assert await sums(workshop, "trainer") == {"objects": 2, "dead": 2}


async def test_the_files_beside_a_card_are_no_objects_of_the_evaluator(workshop: Workshop) -> None:
    await put_model(workshop, PLAN)
    await put(workshop, Layer.MODELS, f"{DATASET}/champion.json")
    assert await sums(workshop, "evaluator") == {"objects": 1, "orphans": 1}


async def test_an_object_that_somebody_else_named_is_settled_under_the_stem_that_follows_from_it(
    workshop: Workshop,
) -> None:
    where = ("else.parquet", "somebody/else.parquet", f"{stem().folder}/zzz.parquet", f"{DATASET}/a.b/c.parquet")
    infos = [await put(workshop, Layer.RAW, key) for key in where]
    _, orphans = await prove(workshop)
    assert set(orphans) == {info.uri for info in infos}
    assert {o["dataset"] for o in orphans.values()} == {"_unknown"}
    for info in infos:
        made = foreign_stem(info, BUCKETS.of(Layer.RAW))
        await put(workshop, Layer.QUARANTINE, manifest_key("transformer", made, OLD))
    assert (await prove(workshop))[1] == {}


async def test_foreign_names_among_the_outcomes_hide_none_of_ours(workshop: Workshop) -> None:
    later = AT + timedelta(days=3)
    for number, at in ((1, AT), (2, AT), (3, later)):
        await put(workshop, Layer.RAW, data_key(stem(number, at)))
        await put(workshop, Layer.SILVER, data_key(stem(number, at), NEW))
    for name in ("aaa.parquet", "zzz.parquet", "zz/z.z/z", f"{stem(1)}x.parquet"):
        await put(workshop, Layer.SILVER, f"{stem().folder}/{name}")
    assert await sums(workshop, "transformer") == {"objects": 3, "done": 3}


async def test_part_numbers_of_different_lengths_are_told_apart(workshop: Workshop) -> None:
    parts = [Stem(DATASET, AT, "0" * 16, part) for part in (1, 1000, 9999, 10000, 10001, 100000)]
    for part in parts:
        await put(workshop, Layer.RAW, data_key(part))
    for part in parts[1::2]:
        await put(workshop, Layer.SILVER, data_key(part, NEW))
    _, orphans = await prove(workshop)
    assert {u.rpartition("_")[2] for u in orphans if "-raw/" in u} == {"0001.parquet", "9999.parquet", "10001.parquet"}


async def test_what_the_doctor_put_down_is_not_counted(workshop: Workshop) -> None:
    for reader in READERS:
        await put(workshop, reader.layer, "_doctor/canary.parquet")
        await put(workshop, reader.layer, "_doctor/x/model.json")
    result, _ = await prove(workshop)
    assert (result["ok"], result["sums"]) == (True, [])


async def test_a_dataset_without_that_reader_is_not_applicable(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = replace(workshop.registry[DATASET], readers=frozenset({"transformer"}))
    monkeypatch.setattr(workshop, "registry", Registry({DATASET: bare}))
    await put(workshop, Layer.SILVER, data_key(stem(), NEW))
    await put(workshop, Layer.SILVER, "somebody/else.parquet")
    result, orphans = await prove(workshop)
    assert orphans == {}
    assert {(s["dataset"], s["not_applicable"]) for s in result["sums"]} == {(DATASET, 1), ("_unknown", 1)}


# in flight


async def test_what_is_younger_than_the_grace_is_in_flight_and_without_grace_nothing_is(workshop: Workshop) -> None:
    await put(workshop, Layer.RAW, data_key(stem()))
    await put(workshop, Layer.LANDING, "a.csv")
    await write_command(workshop, uuid4())
    for reader in ("transformer", "ingestor", "commands"):
        assert await sums(workshop, reader, grace=60) == {"objects": 1, "in_flight": 1}
        assert await sums(workshop, reader) == {"objects": 1, "orphans": 1}
    assert (await prove(workshop, grace=60))[0]["ok"]


@pytest.mark.parametrize("queue", ["acequia.transformer", "acequia.transformer.replay"])
async def test_while_its_readers_queues_hold_messages_a_young_object_is_in_flight(
    workshop: Workshop, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(workshop, Layer.RAW, data_key(stem()))
    await workshop.bus.publish("", queue, Message(b"x"))
    assert await sums(workshop, "transformer") == {"objects": 1, "in_flight": 1}
    monkeypatch.setattr(census, "IN_FLIGHT", timedelta(0))  # it is old by now
    assert await sums(workshop, "transformer") == {"objects": 1, "orphans": 1}


async def test_an_object_done_while_the_listings_were_read_is_no_orphan(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(workshop, Layer.RAW, data_key(stem(1)))
    gone = await put(workshop, Layer.RAW, data_key(stem(2)))
    look = census.Census._look_again

    async def meanwhile(self: Any, batch: Any) -> Any:
        await put(workshop, Layer.SILVER, data_key(stem(1), NEW))
        await workshop.store.remove(Layer.RAW, gone.key)
        return await look(self, batch)

    monkeypatch.setattr(census.Census, "_look_again", meanwhile)
    assert await sums(workshop, "transformer") == {"objects": 1, "done": 1}


# plans


async def test_an_object_of_an_open_plan_is_in_flight_whatever_its_age(workshop: Workshop) -> None:
    await put(workshop, Layer.SILVER, data_key(stem(), NEW))
    await put_plan(workshop, 1, stem())
    assert await sums(workshop, "trainer") == {"objects": 1, "in_flight": 1}
    result, _ = await prove(workshop, settled=True)
    assert (result["ok"], result["settled"]) == (False, False)
    assert f"1 plans of {DATASET} are open at trainer" in result["problems"]


async def test_an_object_of_a_plan_shares_the_plans_end(workshop: Workshop) -> None:
    for number in range(1, 6):
        await put(workshop, Layer.SILVER, data_key(stem(number), NEW))
    await put_model(workshop, await put_plan(workshop, 1, stem(1)), OLD)
    rejected = await put_plan(workshop, 2, stem(2))
    await put(workshop, Layer.QUARANTINE, manifest_key("trainer", rejected, NEW))
    dead = await put_plan(workshop, 3, stem(3))
    await put(workshop, Layer.LEDGER, dead_key("trainer", str(dead), NEW))
    broken = await put_model(workshop, await put_plan(workshop, 4, stem(4)), file=False)
    expected = {"objects": 5, "done": 1, "quarantined": 1, "dead": 1, "orphans": 2}
    assert await sums(workshop, "trainer") == expected
    _, orphans = await prove(workshop)
    reasons = {u.rpartition("_0001.")[0][-1]: o["reason"] for u, o in orphans.items() if "-silver/" in u}
    assert reasons == {
        "4": f"the card of its plan stands, but the model's file that it names is missing ({NEW})",
        "5": "no plan covers it",
    }
    assert broken.uri in orphans  # and nobody has evaluated that card


@pytest.mark.parametrize(
    ("ends", "fate"),
    [
        (("dead", "model"), "done"),
        (("model", "dead"), "done"),
        (("manifest", "model"), "done"),
        (("dead", "manifest"), "quarantined"),
        (("dead", "open"), "in_flight"),
        (("open", "model"), "done"),
    ],
)
async def test_of_several_plans_that_cover_an_object_the_best_end_counts(
    workshop: Workshop, ends: tuple[str, str], fate: str
) -> None:
    await put(workshop, Layer.SILVER, data_key(stem(), NEW))
    for number, end in enumerate(ends, 1):
        plan = await put_plan(workshop, number, stem())
        match end:
            case "model":
                await put_model(workshop, plan)
            case "manifest":
                await put(workshop, Layer.QUARANTINE, manifest_key("trainer", plan, NEW))
            case "dead":
                await put(workshop, Layer.LEDGER, dead_key("trainer", str(plan), NEW))
    assert await sums(workshop, "trainer") == {"objects": 1, fate: 1}


async def test_plans_cover_objects_of_many_dates_and_dates_have_many_plans(workshop: Workshop) -> None:
    days = [stem(number, AT + timedelta(days=number % 5)) for number in range(20)]
    for each in days:
        await put(workshop, Layer.SILVER, data_key(each, NEW))
    for number in range(4):
        await put_model(workshop, await put_plan(workshop, number + 1, *sorted(days[number:16:4], key=str)))
    assert await sums(workshop, "trainer") == {"objects": 20, "done": 16, "orphans": 4}


async def test_a_plan_that_nobody_can_read_is_a_problem_and_the_others_are_counted(workshop: Workshop) -> None:
    await put(workshop, Layer.SILVER, data_key(stem(), NEW))
    await put(workshop, Layer.LEDGER, plan_key("trainer", DATASET, 1), b'{"of": "a later version"}')
    await put(workshop, Layer.RAW, data_key(stem()))
    result, _ = await prove(workshop)
    assert not result["ok"]
    assert result["problems"][0].startswith("trainer: something in LEDGER can't be read")
    assert [s["done"] for s in result["sums"] if s["reader"] == "transformer"] == [1]


# LANDING and commands


async def test_a_landing_object_is_done_by_its_done_and_the_parts_that_it_lists(workshop: Workshop) -> None:
    info = await put(workshop, Layer.LANDING, "dropped at the top.csv")
    await put_done(workshop, landed(info), f"raw/{data_key(stem())}")
    _, orphans = await prove(workshop)
    assert orphans[info.uri]["reason"] == f"its `done` stands, but s3://test-raw/{data_key(stem())} is missing"
    await put(workshop, Layer.RAW, data_key(stem()))
    assert await sums(workshop, "ingestor") == {"objects": 1, "done": 1}


async def test_a_landing_object_that_was_rejected_is_quarantined_and_one_with_old_content_is_done(
    workshop: Workshop,
) -> None:
    bad, same = [await put(workshop, Layer.LANDING, f"{DATASET}/{n}.csv", n.encode()) for n in ("bad", "same")]
    manifest = manifest_key("ingestor", stem())
    await put(workshop, Layer.QUARANTINE, manifest)
    await put_done(workshop, landed(bad), f"quarantine/{manifest}", status="REJECTED")
    await put_done(workshop, landed(same), status="SAME_CONTENT")
    assert await sums(workshop, "ingestor") == {"objects": 2, "done": 1, "quarantined": 1}


async def test_a_landing_object_that_changed_since_is_another_one(workshop: Workshop) -> None:
    info = await put(workshop, Layer.LANDING, f"{DATASET}/a.csv", b"one")
    await put_done(workshop, landed(info))
    await put(workshop, Layer.LANDING, f"{DATASET}/a.csv", b"two")
    assert await sums(workshop, "ingestor") == {"objects": 1, "orphans": 1}


async def test_a_dead_landing_object_and_a_dead_command_are_dead(workshop: Workshop) -> None:
    info, run_id = await put(workshop, Layer.LANDING, f"{DATASET}/a.csv"), uuid4()
    await write_command(workshop, run_id)
    for id in (landed(info), run_id):
        await put(workshop, Layer.LEDGER, dead_key("ingestor", str(id)))
    assert await sums(workshop, "ingestor") == {"objects": 1, "dead": 1}
    assert await sums(workshop, "commands") == {"objects": 1, "dead": 1}


async def test_a_command_counts_once_while_it_lies_there_and_after_it_was_carried_out(workshop: Workshop) -> None:
    run_id = uuid4()
    await write_command(workshop, run_id)
    assert await sums(workshop, "commands") == {"objects": 1, "orphans": 1}
    await put_done(workshop, run_id, f"raw/{data_key(stem())}", command={"run_id": str(run_id)})
    await put(workshop, Layer.RAW, data_key(stem()))
    assert await sums(workshop, "commands") == {"objects": 1, "done": 1}
    await workshop.store.remove(Layer.LEDGER, command_key(run_id))
    assert await sums(workshop, "commands") == {"objects": 1, "done": 1}
    await workshop.store.remove(Layer.RAW, data_key(stem()))
    assert await sums(workshop, "commands") == {"objects": 1, "orphans": 1}


# settled


async def test_nothing_at_all_is_settled(workshop: Workshop) -> None:
    result, _ = await prove(workshop, settled=True)
    assert (result["ok"], result["settled"], result["problems"]) == (True, True, [])
    assert set(result["queues"].values()) == {0}


@pytest.mark.parametrize(
    "queue", ["acequia.trainer", replay_queue("evaluator"), dead_queue("transformer"), "acequia.audit"]
)
async def test_a_message_anywhere_is_not_settled_and_only_then_a_problem(workshop: Workshop, queue: str) -> None:
    await workshop.bus.publish("", queue, Message(b"x"))
    result, _ = await prove(workshop)
    assert (result["ok"], result["settled"], result["queues"][queue]) == (True, False, 1)
    result, _ = await prove(workshop, settled=True)
    assert (result["ok"], result["problems"]) == (False, [f"{queue} holds 1 messages"])


async def test_a_message_on_the_ladder_is_not_settled(workshop: Workshop) -> None:
    await workshop.bus.publish("", "acequia.transformer", Message(b"x"))
    await climb(workshop, "acequia.transformer")
    result, _ = await prove(workshop, settled=True)
    assert result["problems"] == ["acequia.transformer.retry.3600s holds 1 messages"]
