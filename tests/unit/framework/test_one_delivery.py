"""What becomes of one delivery at a one-to-one stage."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from acequia.errors import ConfigurationError, LostRace, RejectedInput, TransientFailure
from acequia.events import Kind, Status
from acequia.layers import Layer, Stem, data_key
from acequia.ports import Ack, Delivery, HandBack, Message, Retry
from acequia.runner import HEADER_STALE, StageRunner, Workshop, settle
from acequia.stage import Stage
from acequia.work import Beside, Outcome, Pointer, RejectedWhole, Work

from .conftest import copy_rows, delivery_of, document, keys, put_raw, records, stage

STEM = Stem("network_events", datetime(2025, 12, 20, 12, 12, 9, tzinfo=UTC), "9f2c4e1a7b3d5e60", 1)


async def runner_of(workshop: Workshop, what: Stage | None = None) -> StageRunner:
    runner = StageRunner(what or stage(), workshop)
    await runner.start()
    return runner


async def test_an_object_becomes_one_artifact_and_one_record(workshop: Workshop) -> None:
    runner = await runner_of(workshop)
    delivery = await put_raw(workshop, STEM, b"abc")
    assert await runner.handle(delivery) == Ack()
    (key,) = await keys(workshop, Layer.SILVER)
    assert key == data_key(STEM, runner.stage.variant)
    (record,) = await records(workshop, 1)
    assert (record.status, record.rows_in, record.rows_out, record.rows_duplicate) == (Status.SUCCESS, 3, 2, 1)
    assert record.inputs[0].uri.endswith(data_key(STEM))
    assert record.outputs[0].uri.endswith(key)
    assert record.outputs[0].sha256 is not None


async def test_the_same_event_again_publishes_the_same_record_and_makes_nothing_new(workshop: Workshop) -> None:
    runner = await runner_of(workshop)
    delivery = await put_raw(workshop, STEM)
    await runner.handle(delivery)
    await runner.handle(delivery)
    assert len(await keys(workshop, Layer.SILVER)) == 1
    first, second = await records(workshop, 2)
    assert first == second


async def test_two_replicas_at_once_make_one_artifact_and_one_record(workshop: Workshop) -> None:
    one, two = await runner_of(workshop), await runner_of(workshop)
    delivery = await put_raw(workshop, STEM)
    assert await asyncio.gather(one.handle(delivery), two.handle(delivery)) == [Ack(), Ack()]
    assert len(await keys(workshop, Layer.SILVER)) == 1
    first, second = await records(workshop, 2)
    assert first == second


async def test_an_upgrade_leaves_the_past_alone_until_it_is_asked_for(workshop: Workshop) -> None:
    old, new = await runner_of(workshop), await runner_of(workshop, stage("2"))
    delivery = await put_raw(workshop, STEM)
    await old.handle(delivery)
    await new.handle(delivery)
    assert await keys(workshop, Layer.SILVER) == [data_key(STEM, old.stage.variant)]
    stale = Delivery(delivery.queue, Message(delivery.message.body, headers={HEADER_STALE: "1"}))
    await new.handle(stale)
    assert set(await keys(workshop, Layer.SILVER)) == {
        data_key(STEM, old.stage.variant),
        data_key(STEM, new.stage.variant),
    }


async def test_a_rejected_object_lies_in_quarantine_with_its_reason_and_is_not_tried_again(workshop: Workshop) -> None:
    tries = []

    def refuse(work: Work, inputs: Sequence[Path], out: Path) -> Outcome:
        tries.append(1)
        rows = out / "rejected.parquet"
        rows.write_bytes(b"rows")
        beside = Beside(Layer.QUARANTINE, "transformer/rows.parquet", rows)
        raise RejectedWhole("no_rows", "none survived", rows_in=3, rejected={"bad_ip": 3}, beside=[beside])

    runner = await runner_of(workshop, stage(process=refuse))
    delivery = await put_raw(workshop, STEM)
    assert await runner.handle(delivery) == Ack()
    assert await runner.handle(delivery) == Ack()
    assert len(tries) == 1
    assert await keys(workshop, Layer.SILVER) == []
    (manifest,) = [k for k in await keys(workshop, Layer.QUARANTINE) if k.endswith(".rejected.json")]
    assert (await document(workshop, Layer.QUARANTINE, manifest))["rule"] == "no_rows"
    first, second = await records(workshop, 2)
    assert first == second
    assert (first.status, first.rejected) == (Status.REJECTED, {"bad_ip": 3})


async def test_an_object_that_is_gone_is_told_and_commits_nothing(workshop: Workshop) -> None:
    runner = await runner_of(workshop)
    delivery = await put_raw(workshop, STEM)
    await workshop.store.remove(Layer.RAW, data_key(STEM))
    assert await runner.handle(delivery) == Ack()
    (record,) = await records(workshop, 1)
    assert (record.kind, record.status) == (Kind.NOTE, Status.GONE)
    assert await keys(workshop, Layer.QUARANTINE) == []


async def test_an_object_replaced_before_it_was_read_is_told_as_superseded(workshop: Workshop) -> None:
    runner = await runner_of(workshop)
    delivery = await put_raw(workshop, STEM, b"old")
    await put_raw(workshop, STEM, b"new")
    assert await runner.handle(delivery) == Ack()
    (record,) = await records(workshop, 1)
    assert record.status is Status.SUPERSEDED


async def test_an_object_that_somebody_else_named_is_rejected_once(workshop: Workshop) -> None:
    runner = await runner_of(workshop)
    info = await workshop.store.put(
        Layer.RAW, "somebody/else's.parquet", b"x", metadata={}, content_type="application/octet-stream"
    )
    delivery = delivery_of(info.key, info.etag, 1)
    assert await runner.handle(delivery) == Ack()
    assert await runner.handle(delivery) == Ack()
    (manifest,) = await keys(workshop, Layer.QUARANTINE)
    assert (await document(workshop, Layer.QUARANTINE, manifest))["rule"] == "unknown_dataset"
    first, second = await records(workshop, 2)
    assert first == second


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"Records": [{}]}', b"\xff\xfe", b'{"Records": null}'])
async def test_a_message_that_is_no_event_is_told_and_forgotten(workshop: Workshop, body: bytes) -> None:
    runner = await runner_of(workshop)
    assert await runner.handle(Delivery("acequia.transformer", Message(body))) == Ack()
    (record,) = await records(workshop, 1)
    assert record.status is Status.REJECTED
    assert record.error is not None
    assert record.error.rule == "malformed_event"


async def test_events_of_other_buckets_are_counted_and_forgotten(workshop: Workshop) -> None:
    runner = await runner_of(workshop)
    body = b'{"EventName":"s3:ObjectCreated:Put","Records":[{"s3":{"bucket":{"name":"x"},"object":{"key":"k"}}}]}'
    assert await runner.handle(Delivery("acequia.transformer", Message(body))) == Ack()
    counter = workshop.meters.ignored.labels("transformer", "another bucket")
    assert counter._value.get() == 1
    await records(workshop, 0)


class Panic(BaseException):
    """As polars' PanicException: no Exception."""


async def test_a_panic_of_a_library_is_a_bug_that_is_retried_not_a_message_that_is_held(workshop: Workshop) -> None:
    def panics(work: Work, inputs: Sequence[Path], out: Path) -> Outcome:
        raise Panic("index out of bounds")

    runner = await runner_of(workshop, stage(process=panics))
    settled = await runner.handle(await put_raw(workshop, STEM))
    assert isinstance(settled, Retry)
    assert "index out of bounds" in settled.reason


@pytest.mark.parametrize("said", [OSError(24, "Too many open files"), ValueError("it said: no handles (os error 24)")])
async def test_what_this_machine_lacks_is_transient_and_no_bug(workshop: Workshop, said: Exception) -> None:
    def lacks(work: Work, inputs: Sequence[Path], out: Path) -> Outcome:
        raise said

    runner = await runner_of(workshop, stage(process=lacks))
    settled = await runner.handle(await put_raw(workshop, STEM))
    assert isinstance(settled, Retry)
    assert settled.traceback == ""


async def test_rows_that_do_not_add_up_are_a_bug_that_is_retried_with_its_traceback(workshop: Workshop) -> None:
    def lose_one(work: Work, inputs: Sequence[Path], out: Path) -> Outcome:
        outcome = copy_rows(work, inputs, out)
        return Outcome(output=outcome.output, rows_in=4, rows_out=2, rows_duplicate=1)

    runner = await runner_of(workshop, stage(process=lose_one))
    settlement = await runner.handle(await put_raw(workshop, STEM))
    assert isinstance(settlement, Retry)
    assert "4 rows in, but 3 accounted for" in settlement.reason
    assert "Traceback" in settlement.traceback
    assert await keys(workshop, Layer.SILVER) == []
    (record,) = await records(workshop, 1)
    assert record.status is Status.FAILED


async def test_a_passing_failure_climbs_the_ladder_and_is_told(workshop: Workshop) -> None:
    def fail(work: Work, inputs: Sequence[Path], out: Path) -> Outcome:
        raise TransientFailure("no room", dependency="disk")

    runner = await runner_of(workshop, stage(process=fail))
    assert isinstance(await runner.handle(await put_raw(workshop, STEM)), Retry)
    (record,) = await records(workshop, 1)
    assert record.status is Status.FAILED


async def test_while_a_server_is_away_the_message_waits_in_hand(workshop: Workshop) -> None:
    tries = []

    def fail_twice(work: Work, inputs: Sequence[Path], out: Path) -> Outcome:
        tries.append(1)
        if len(tries) < 3:
            raise TransientFailure("no answer", dependency="minio", away=True)
        return copy_rows(work, inputs, out)

    runner = await runner_of(workshop, stage(process=fail_twice))
    assert await runner.handle(await put_raw(workshop, STEM)) == Ack()
    (record,) = await records(workshop, 1)
    assert record.status is Status.SUCCESS


async def test_a_setting_that_a_person_must_change_hands_the_message_back_and_ends_the_process(
    workshop: Workshop,
) -> None:
    def fail(work: Work, inputs: Sequence[Path], out: Path) -> Outcome:
        raise ConfigurationError("wrong password")

    ended: list[ConfigurationError] = []
    workshop.fatal = ended.append
    runner = await runner_of(workshop, stage(process=fail))
    assert await runner.handle(await put_raw(workshop, STEM)) == HandBack()
    assert str(ended[0]) == "wrong password"


async def test_who_loses_the_race_for_a_pointer_decides_again(workshop: Workshop) -> None:
    from acequia.work import Ref

    seen: list[str] = []

    def promote(work: Work, inputs: Sequence[Path], out: Path) -> Outcome:
        etag = work.inputs[-1].etag or None
        seen.append(etag or "nobody")
        document = {"champion": len(seen)}
        return Outcome(document={"ok": True}, pointer=Pointer(Layer.MODELS, "champion.json", document, etag))

    what = Stage(
        "evaluator",
        "1",
        Layer.RAW,
        Layer.EVAL,
        promote,
        commit_file="evaluation.json",
        needs=lambda work, first: [Ref(Layer.MODELS, "champion.json", optional=True)],
    )
    runner = await runner_of(workshop, what)
    store, create = workshop.store, workshop.store.create
    raced = []

    async def overtaken(layer: Layer, key: str, *args: Any, **more: Any) -> Any:
        if key == "champion.json" and not raced:
            raced.append(key)
            await create(layer, key, b'{"champion": "another"}', metadata={}, content_type="application/json")
        return await create(layer, key, *args, **more)

    store.create = overtaken  # type: ignore[method-assign]
    assert await runner.handle(await put_raw(workshop, STEM)) == Ack()
    assert seen[0] == "nobody"
    assert len(seen) == 2
    assert (await document(workshop, Layer.MODELS, "champion.json"))["champion"] == 2


def test_a_lost_race_is_no_rejection() -> None:
    assert not issubclass(LostRace, RejectedInput)


async def test_a_message_does_not_climb_the_ladder_for_a_server_that_is_away_for_hours(workshop: Workshop) -> None:
    async def away(delivery: Delivery) -> None:
        raise TransientFailure("no answer", dependency="minio", away=True)

    delivery = Delivery("acequia.transformer", Message(b""))
    assert await settle(away, delivery, workshop=workshop, stage="transformer", patience=0.3) == HandBack()
    await records(workshop, 0)


async def test_what_a_check_blocked_goes_no_further_than_raw(workshop: Workshop) -> None:
    delivery = await put_raw(workshop, STEM, **{"acequia-blocked": "freshness,references"})
    runner = StageRunner(stage(), workshop)
    await runner.start()
    assert await runner.handle(delivery) == Ack()
    assert await keys(workshop, Layer.SILVER) == []
    (record,) = await records(workshop, 1)
    assert record.status is Status.REJECTED
    assert (record.rows_in, record.rejected) == (3, {"blocked": 3})
    assert record.error is not None
    assert "freshness,references" in record.error.message


async def test_the_part_of_a_load_is_told_to_the_next_layer(workshop: Workshop) -> None:
    delivery = await put_raw(workshop, STEM, **{"acequia-load": "7.full.3of4"})
    runner = StageRunner(stage(), workshop)
    await runner.start()
    await runner.handle(delivery)
    (key,) = await keys(workshop, Layer.SILVER)
    info = await workshop.store.head(Layer.SILVER, key)
    assert info is not None
    assert info.metadata["acequia-load"] == "7.full.3of4"
