"""What was lost between the store and a queue is found and sent again; what is settled or in flight is left alone."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from acequia.errors import TransientFailure
from acequia.layers import (
    Layer,
    command_key,
    data_key,
    dead_key,
    done_key,
    folder_key,
    manifest_key,
    plan_key,
    stage_key,
)
from acequia.ports import Delivery, Message
from acequia.runner import Workshop, foreign_stem
from acequia.topology import READERS
from acequia_auditor.dead_letters import DeadLetterWriter
from acequia_reconciler import sweep as module
from acequia_reconciler.sweep import Sweeper

from .conftest import (
    BUCKETS,
    PLAN,
    TABLE,
    VARIANT,
    climb,
    event_of,
    landed,
    put,
    stem,
    taken,
    write,
    write_command,
    write_plan,
)


@pytest.fixture
def heard() -> bool:
    return True


async def lose_all(workshop: Workshop) -> None:
    """The broker lost every message."""
    for reader in READERS:
        await taken(workshop, reader.queue)


LOST = [
    ("ingestor", Layer.LANDING, "network_events/a log+ß.csv"),
    ("transformer", Layer.RAW, data_key(stem())),
    ("trainer", Layer.SILVER, data_key(stem(), VARIANT)),
    ("evaluator", Layer.MODELS, folder_key(PLAN, VARIANT, "model.json")),
]


@pytest.mark.parametrize(("stage", "layer", "key"), LOST)
async def test_a_lost_event_of_each_layer_is_sent_to_its_reader_alone_as_the_store_had_told_it(
    workshop: Workshop, stage: str, layer: Layer, key: str
) -> None:
    info = await put(workshop, layer, key, acequia_rows="3", acequia_run_id=str(UUID(int=7)))
    await lose_all(workshop)
    result = await Sweeper(workshop, TABLE).sweep(grace=0)
    assert (result.sent, [o.uri for o in result.orphans]) == (1, [info.uri])
    assert workshop.meters.registry.get_sample_value("acequia_sent_again_total", {"stage": stage}) == 1
    for reader in READERS:
        found = [event_of(d) for d in await taken(workshop, reader.queue)]
        if reader.stage == stage:
            assert [(e.layer, e.key, e.etag, e.size) for e in found] == [(layer, key, info.etag, 4)]
            assert found[0].metadata == {"acequia-rows": "3", "acequia-run-id": str(UUID(int=7))}
        else:
            assert found == []


async def test_an_object_without_a_byte_is_sent_too(workshop: Workshop) -> None:
    await put(workshop, Layer.LANDING, "network_events/empty.csv", b"")
    await lose_all(workshop)
    assert (await Sweeper(workshop, TABLE).sweep(grace=0)).sent == 1
    (delivery,) = await taken(workshop, "acequia.ingestor")
    assert event_of(delivery).size == 0


async def test_what_is_young_is_left_alone(workshop: Workshop) -> None:
    for _, layer, key in LOST:
        await put(workshop, layer, key)
    await write_command(workshop, uuid4())
    await lose_all(workshop)
    assert (await Sweeper(workshop, TABLE).sweep(grace=60)).orphans == []


async def test_a_dry_run_tells_and_sends_nothing(workshop: Workshop) -> None:
    await put(workshop, Layer.RAW, data_key(stem()))
    await lose_all(workshop)
    result = await Sweeper(workshop, TABLE).sweep(grace=0, dry_run=True)
    assert (len(result.orphans), result.sent) == (1, 0)
    assert await taken(workshop, "acequia.transformer") == []


async def settle_landing(workshop: Workshop, how: str) -> None:
    info = await put(workshop, Layer.LANDING, "network_events/a.csv")
    key = done_key(landed(info)) if how == "done" else dead_key("ingestor", str(landed(info)))
    await put(workshop, Layer.LEDGER, key, b"{}")


async def settle_raw(workshop: Workshop, how: str) -> None:
    await put(workshop, Layer.RAW, data_key(stem()))
    match how:
        case "done":  # by an older variant
            await put(workshop, Layer.SILVER, data_key(stem(), "v0-000000"))
        case "quarantined":
            await put(workshop, Layer.QUARANTINE, manifest_key("transformer", stem(), VARIANT), b"{}")
        case _:
            await put(workshop, Layer.LEDGER, dead_key("transformer", str(stem()), VARIANT), b"{}")


async def settle_model(workshop: Workshop, how: str) -> None:
    await put(workshop, Layer.MODELS, folder_key(PLAN, VARIANT, "model.json"))
    match how:
        case "done":
            await put(workshop, Layer.EVAL, folder_key(PLAN, "v2-000000", "evaluation.json"))
        case "quarantined":
            await put(workshop, Layer.QUARANTINE, manifest_key("evaluator", PLAN, VARIANT), b"{}")
        case _:
            await put(workshop, Layer.LEDGER, dead_key("evaluator", str(PLAN), VARIANT), b"{}")


async def settle_foreign(workshop: Workshop, how: str) -> None:
    """An object that somebody else named is settled under the stem that follows from it."""
    await write(workshop, Layer.LEDGER, stage_key("transformer"), {"variants": [VARIANT]})
    info = await put(workshop, Layer.RAW, "somebody/else.parquet")
    made = foreign_stem(info, BUCKETS.of(Layer.RAW))
    if how == "dead":
        await put(workshop, Layer.LEDGER, dead_key("transformer", str(made), VARIANT), b"{}")
    else:
        await put(workshop, Layer.QUARANTINE, manifest_key("transformer", made, VARIANT), b"{}")


async def settle_silver(workshop: Workshop, how: str) -> None:
    await put(workshop, Layer.SILVER, data_key(stem(), VARIANT))
    if how == "dead":
        await put(workshop, Layer.LEDGER, dead_key("trainer", str(stem()), VARIANT), b"{}")
        return
    await write_plan(workshop, PLAN, {stem(): VARIANT})


async def settle_command(workshop: Workshop, how: str) -> None:
    run_id = uuid4()
    await write_command(workshop, run_id)
    await put(workshop, Layer.LEDGER, dead_key("ingestor", str(run_id)), b"{}")


@pytest.mark.parametrize(
    ("settle", "how"),
    [
        (settle_landing, "done"),
        (settle_landing, "dead"),
        (settle_raw, "done"),
        (settle_raw, "quarantined"),
        (settle_raw, "dead"),
        (settle_silver, "planned"),
        (settle_silver, "dead"),
        (settle_model, "done"),
        (settle_model, "quarantined"),
        (settle_model, "dead"),
        (settle_foreign, "quarantined"),
        (settle_foreign, "dead"),
        (settle_command, "dead"),
    ],
)
async def test_what_is_settled_is_never_sent_again(workshop: Workshop, settle: Any, how: str) -> None:
    await settle(workshop, how)
    orphans = (await Sweeper(workshop, TABLE).sweep(grace=0)).orphans
    # what settles it may be new to the next reader: only the settled thing itself is asked for
    asked = {
        settle_landing: "ingestor",
        settle_silver: "trainer",
        settle_model: "evaluator",
        settle_command: "ingestor",
    }
    queue = f"acequia.{asked.get(settle, 'transformer')}"
    assert [o.uri for o in orphans if o.queue == queue] == []


class NoDatabase:
    """PostgreSQL that takes nothing: what is under test lies in the store before the table is asked."""

    def transaction(self) -> Any:
        raise TransientFailure("no database here", dependency="postgresql", away=True)


async def die(workshop: Workshop, stage: str, message: Message) -> list[str]:
    """The auditor is handed a dead message; the keys of what it writes down."""
    writer = DeadLetterWriter(NoDatabase(), workshop.store, buckets=BUCKETS, meters=workshop.meters)  # type: ignore[arg-type]
    task = asyncio.create_task(writer.handle(Delivery(f"acequia.{stage}.dead", message)))
    found: list[str] = []
    while not found:
        await asyncio.sleep(0.01)
        found = [i.key async for i in workshop.store.list_objects(Layer.LEDGER, "dead/")]
    await asyncio.sleep(0.3)  # it tries the table more than once, and counts once
    await writer.close()
    await task
    assert workshop.meters.registry.get_sample_value("acequia_dead_letters_total", {"stage": stage}) == 1
    return found


@pytest.mark.parametrize(
    ("stage", "layer", "key"),
    [
        *LOST,
        ("transformer", Layer.RAW, "somebody/else.parquet"),
        # a copy of a RAW object that someone dropped: in LANDING its name means nothing
        ("ingestor", Layer.LANDING, data_key(stem())),
    ],
)
async def test_what_the_auditor_writes_down_as_dead_the_sweep_knows_as_dead(
    workshop: Workshop, stage: str, layer: Layer, key: str
) -> None:
    await write(workshop, Layer.LEDGER, stage_key(stage), {"variants": ["v1-000000", VARIANT]})
    await put(workshop, layer, key)
    await lose_all(workshop)
    sweeper = Sweeper(workshop, TABLE)
    await sweeper.sweep(grace=0)
    (lost,) = await taken(workshop, f"acequia.{stage}")
    await die(workshop, stage, lost.message)
    assert (await sweeper.sweep(grace=0, at_once=True)).orphans == []


async def test_a_dead_command_is_not_sent_again_and_a_lost_one_is(workshop: Workshop) -> None:
    dead, lost = uuid4(), uuid4()
    await write_command(workshop, dead)
    await write_command(workshop, lost)
    sweeper = Sweeper(workshop, TABLE)
    await sweeper.sweep(grace=0)
    messages = {d.message.message_id: d.message for d in await taken(workshop, "acequia.ingestor")}
    assert set(messages) == {str(dead), str(lost)}
    await die(workshop, "ingestor", messages[str(dead)])
    assert (await sweeper.sweep(grace=0, at_once=True)).sent == 1
    (again,) = await taken(workshop, "acequia.ingestor")
    assert (again.message.type, again.message.message_id) == ("IngestionCommand", str(lost))


async def test_a_command_that_is_done_but_was_not_removed_is_sent_so_that_it_is_removed(workshop: Workshop) -> None:
    run_id = uuid4()
    await write_command(workshop, run_id)
    await put(workshop, Layer.LEDGER, done_key(run_id), b"{}")
    await Sweeper(workshop, TABLE).sweep(grace=0)
    (delivery,) = await taken(workshop, "acequia.ingestor")
    assert delivery.message.message_id == str(run_id)


@pytest.mark.parametrize(
    "key", [command_key(UUID(int=5)), plan_key("trainer", "network_events", 1), command_key(UUID(int=6))]
)
async def test_what_nobody_can_read_in_the_ledger_keeps_nothing_else_lost(workshop: Workshop, key: str) -> None:
    await put(workshop, Layer.LEDGER, key, b'{"kind": "of a later version"}')
    await put(workshop, Layer.SILVER, data_key(stem(2), VARIANT))
    info = await put(workshop, Layer.RAW, data_key(stem()))
    await lose_all(workshop)
    await Sweeper(workshop, TABLE).sweep(grace=0)
    assert [event_of(d).uri for d in await taken(workshop, "acequia.transformer")] == [info.uri]


async def test_no_more_is_sent_than_a_queue_has_room_for_and_the_oldest_first(workshop: Workshop) -> None:
    for number in range(5):
        await put(workshop, Layer.RAW, data_key(stem(number)))
    await lose_all(workshop)
    listed = [i async for i in workshop.store.list_objects(Layer.RAW)]
    oldest = sorted(listed, key=lambda i: i.last_modified)[:3]
    result = await Sweeper(workshop, TABLE, queue_limit=3).sweep(grace=0)
    assert (len(result.orphans), result.sent, result.held_back) == (5, 3, 2)
    sent = {event_of(d).key for d in await taken(workshop, "acequia.transformer")}
    assert max(i.last_modified for i in listed if i.key in sent) <= max(i.last_modified for i in oldest)


async def test_of_more_landing_files_than_a_sweep_takes_up_the_oldest_are_whatever_their_names(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_ORPHANS", 2 * (len(READERS) + 1))  # two for each reader
    names = ["d.csv", "b.csv", "c.csv", "a.csv"]
    for name in names:
        await put(workshop, Layer.LANDING, f"network_events/{name}", name.encode())
    await lose_all(workshop)
    result = await Sweeper(workshop, TABLE).sweep(grace=0)
    assert [orphan.info.key.rpartition("/")[2] for orphan in result.orphans] == names[:2]


async def test_while_its_readers_queue_holds_messages_an_object_may_be_among_them(workshop: Workshop) -> None:
    await put(workshop, Layer.RAW, data_key(stem()))  # its event lies in the queue
    sweeper = Sweeper(workshop, TABLE)
    result = await sweeper.sweep(grace=0)
    assert (result.sent, result.held_back) == (0, 1)
    assert (await sweeper.sweep(grace=0, at_once=True)).sent == 1
    assert len(await taken(workshop, "acequia.transformer")) == 2


async def test_while_a_message_waits_on_the_ladder_an_object_may_be_in_it(workshop: Workshop) -> None:
    await put(workshop, Layer.RAW, data_key(stem()))
    await climb(workshop, "acequia.transformer")
    result = await Sweeper(workshop, TABLE).sweep(grace=0)
    assert (result.sent, result.held_back) == (0, 1)


async def test_an_old_object_is_sent_though_its_readers_queue_holds_messages(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(workshop, Layer.RAW, data_key(stem()))
    monkeypatch.setattr("acequia_reconciler.sweep.IN_FLIGHT", timedelta(seconds=-10))
    assert (await Sweeper(workshop, TABLE).sweep(grace=0)).sent == 1


async def test_what_was_sent_is_not_sent_at_each_sweep_while_it_is_in_work(workshop: Workshop) -> None:
    await put(workshop, Layer.RAW, data_key(stem()))
    await lose_all(workshop)
    sweeper = Sweeper(workshop, TABLE)
    assert (await sweeper.sweep(grace=0)).sent == 1
    assert len(await taken(workshop, "acequia.transformer")) == 1  # a worker has it in hand, for long
    assert (await sweeper.sweep(grace=0)).sent == 0
    await put(workshop, Layer.RAW, data_key(stem()), b"another version")
    await lose_all(workshop)
    assert (await sweeper.sweep(grace=0)).sent == 1


async def test_two_reconcilers_do_no_harm(workshop: Workshop) -> None:
    await put(workshop, Layer.RAW, data_key(stem()))
    await lose_all(workshop)
    await Sweeper(workshop, TABLE).sweep(grace=0)
    await Sweeper(workshop, TABLE).sweep(grace=0)  # it sees the queue of the other's message
    assert len(await taken(workshop, "acequia.transformer")) == 1


async def test_what_no_reader_wants_is_no_orphan(workshop: Workshop) -> None:
    await put(workshop, Layer.MODELS, "network_events/champion.json")
    await put(workshop, Layer.MODELS, folder_key(PLAN, VARIANT, "model-1.skops"))
    await put(workshop, Layer.SILVER, "somebody/else.parquet")
    await put(workshop, Layer.RAW, "network_events/readme.txt")
    assert (await Sweeper(workshop, TABLE).sweep(grace=0)).orphans == []
