"""Each time of a schedule is one run: fired when it comes, made up for or skipped as its misfire policy says."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from acequia.acceptance import COMMAND, SEVERAL
from acequia.app import make_app
from acequia.datasets import Misfire, Registry, Schedule, load_registry
from acequia.errors import ConfigurationError, TransientFailure
from acequia.events import AuditRecord, IngestionCommand, Status
from acequia.layers import Layer, command_key, done_key
from acequia.ports import Message, ObjectInfo
from acequia.runner import Workshop
from acequia.settings import check, load
from acequia.topology import AUDIT_QUEUE
from acequia_ingestor.settings import IngestorSettings
from acequia_ingestor.sources import load_sources, read_request
from acequia_reconciler.schedules import (
    COUNTED_MOST,
    LOOK_SECONDS,
    MADE_UP_MOST,
    Planned,
    Scheduler,
    chosen,
    load_schedules,
    run_of,
    schedule_key,
)
from acequia_reconciler.service import ReconcilerService, make_scheduler
from acequia_reconciler.settings import CommandSettings, ReconcilerSettings, ScheduleSettings

from .conftest import DATASET, TABLE, put, taken

QUEUE = "acequia.ingestor"
NAME = "hourly"
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
SOURCE = {"kind": "synthetic", "rows": 10}


class Clock:
    """Stands still until somebody sets it."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.asked = 0

    def __call__(self) -> datetime:
        self.asked += 1
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON - 30 * MINUTE)


def registry_of(*schedules: Schedule) -> Registry:
    return Registry({DATASET: replace(load_registry()[DATASET], schedules=schedules)})


def scheduler(workshop: Workshop, clock: Clock, *, active: str = "*", **changed: Any) -> Scheduler:
    """One with an hourly schedule, as a process has it that has just begun."""
    told: dict[str, Any] = {"name": NAME, "cron": "0 * * * *", "timezone": "UTC", "source": SOURCE}
    planned = load_schedules(registry_of(Schedule(**(told | changed))))
    return Scheduler(workshop, planned, chosen([active] if active else [], planned), 5, clock)


async def fired(workshop: Workshop) -> list[IngestionCommand]:
    """The commands that were sent since the last time, in order."""
    sent = await taken(workshop, QUEUE)
    assert {d.message.type for d in sent} <= {COMMAND}
    commands = [IngestionCommand.model_validate_json(d.message.body) for d in sent]
    return sorted(commands, key=lambda c: c.schedule.due if c.schedule and c.schedule.due else NOON)


async def times_fired(workshop: Workshop) -> list[str]:
    due = [c.schedule.due for c in await fired(workshop) if c.schedule and c.schedule.due]
    return [f"{at:%d %H:%M}" for at in due]


async def stored(workshop: Workshop) -> list[str]:
    return [info.key async for info in workshop.store.list_objects(Layer.LEDGER, "commands/")]


async def state(workshop: Workshop) -> dict[str, Any]:
    found = await workshop.store.read(Layer.LEDGER, schedule_key(NAME))
    assert found is not None
    document: dict[str, Any] = json.loads(found[0])
    return document


async def carry_out(workshop: Workshop, run_id: UUID) -> None:
    """What the ingestor leaves of a command."""
    found = await workshop.store.read(Layer.LEDGER, command_key(run_id))
    assert found is not None
    await put(workshop, Layer.LEDGER, done_key(run_id), json.dumps({"command": json.loads(found[0])}).encode())
    await workshop.store.remove(Layer.LEDGER, command_key(run_id))


async def test_a_schedule_fires_when_its_time_comes_and_not_before(workshop: Workshop, clock: Clock) -> None:
    one = scheduler(workshop, clock)
    await one.tick()
    clock.now = NOON - timedelta(milliseconds=1)
    await one.tick()
    assert await fired(workshop) == []
    clock.now = NOON
    await one.tick()
    await one.tick()
    (command,) = await fired(workshop)
    assert command.run_id == run_of(NAME, NOON)
    assert (command.dataset, command.source.model_dump(), command.rows_per_part) == (DATASET, SOURCE, 5)
    assert command.schedule is not None
    assert (command.schedule.name, command.schedule.due) == (NAME, NOON)


async def test_a_fired_run_is_stored_sent_and_told_as_one_that_was_asked_for(workshop: Workshop, clock: Clock) -> None:
    one = scheduler(workshop, clock)
    await one.tick()
    clock.now = NOON
    await one.tick()
    found = await workshop.store.read(Layer.LEDGER, command_key(run_of(NAME, NOON)))
    assert found is not None
    assert [IngestionCommand.model_validate_json(found[0])] == await fired(workshop)
    (told,) = [AuditRecord.model_validate_json(d.message.body) for d in await taken(workshop, AUDIT_QUEUE)]
    assert (told.status, told.run_id) == (Status.ACCEPTED, run_of(NAME, NOON))
    assert told.parameters == {"source": SOURCE, "schedule": {"name": NAME, "due": "2026-06-01T12:00:00Z"}}


async def test_nothing_is_made_up_for_of_the_time_in_which_no_dataset_had_the_schedule(
    workshop: Workshop, clock: Clock
) -> None:
    await scheduler(workshop, clock, misfire=Misfire.ALL).tick()
    clock.now = NOON
    await scheduler(workshop, clock, name="another").tick()  # a version whose dataset lacks it
    assert (await state(workshop))["active"] is False
    clock.now = NOON + 5 * HOUR + MINUTE
    back = scheduler(workshop, clock, misfire=Misfire.ALL)
    await back.tick()
    assert await times_fired(workshop) == []
    clock.now = NOON + 6 * HOUR
    await back.tick()
    assert await times_fired(workshop) == ["01 18:00"]


async def test_nothing_is_due_before_a_schedule_was_first_seen(workshop: Workshop, clock: Clock) -> None:
    clock.now = NOON + timedelta(seconds=1)
    await scheduler(workshop, clock, misfire=Misfire.ALL).tick()
    assert await fired(workshop) == []


async def test_a_schedule_that_is_not_named_does_not_fire(workshop: Workshop, clock: Clock) -> None:
    one = scheduler(workshop, clock, active="")
    await one.tick()
    clock.now = NOON
    await one.tick()
    assert await fired(workshop) == []
    assert [info async for info in workshop.store.list_objects(Layer.LEDGER)] == []


async def test_a_run_that_is_done_is_not_fired_again(workshop: Workshop, clock: Clock) -> None:
    one, other = scheduler(workshop, clock), scheduler(workshop, clock)
    await one.tick()
    clock.now = NOON
    await one.tick()
    await carry_out(workshop, run_of(NAME, NOON))
    await fired(workshop)
    # what tells that noon is settled is lost
    await workshop.store.remove(Layer.LEDGER, schedule_key(NAME))
    clock.now = NOON - MINUTE
    await other.tick()
    clock.now = NOON + MINUTE / 2
    await other.tick()
    assert (await fired(workshop), await stored(workshop)) == ([], [])
    assert (await state(workshop))["last"]["run_id"] == str(run_of(NAME, NOON))


async def test_two_reconcilers_at_once_make_one_run_of_each_time(workshop: Workshop, clock: Clock) -> None:
    both = [scheduler(workshop, clock, misfire=Misfire.ALL) for _ in range(2)]
    for at in (clock.now, NOON, NOON + 5 * HOUR):
        clock.now = at
        await asyncio.gather(*(one.tick() for one in both))
    assert sorted(await stored(workshop)) == sorted(command_key(run_of(NAME, NOON + n * HOUR)) for n in range(6))
    assert {c.run_id for c in await fired(workshop)} == {run_of(NAME, NOON + n * HOUR) for n in range(6)}
    assert (await state(workshop))["settled"] == (NOON + 5 * HOUR).isoformat()
    assert (await state(workshop))["skipped"] == 0


async def test_two_reconcilers_at_once_count_what_was_skipped_once(workshop: Workshop, clock: Clock) -> None:
    both = [scheduler(workshop, clock, misfire=Misfire.NONE) for _ in range(2)]
    for at in (clock.now, NOON + 5 * HOUR + 10 * MINUTE):
        clock.now = at
        await asyncio.gather(*(one.tick() for one in both))
    assert (await state(workshop))["skipped"] == 6


# misfires


@pytest.mark.parametrize(
    ("misfire", "made_up", "skipped"),
    [
        (Misfire.NONE, [], 4),
        (Misfire.LAST, ["01 15:00"], 3),
        (Misfire.ALL, ["01 12:00", "01 13:00", "01 14:00", "01 15:00"], 0),
    ],
)
async def test_times_that_passed_while_nobody_was_there_are_made_up_for_as_the_policy_says(
    workshop: Workshop,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    misfire: Misfire,
    made_up: list[str],
    skipped: int,
) -> None:
    await scheduler(workshop, clock, misfire=misfire).tick()
    clock.now = NOON + 3 * HOUR + 10 * MINUTE
    again = scheduler(workshop, clock, misfire=misfire)
    await again.tick()
    assert await times_fired(workshop) == made_up
    document = await state(workshop)
    assert document["skipped"] == skipped
    assert document["settled"] == (NOON + 3 * HOUR).isoformat()
    assert (f"{skipped} missed times" in caplog.text) == (skipped > 0)
    clock.now = NOON + 4 * HOUR
    await again.tick()
    assert await times_fired(workshop) == ["01 16:00"]


@pytest.mark.parametrize("misfire", Misfire)
async def test_a_time_that_is_less_than_a_minute_late_is_not_missed(
    workshop: Workshop, clock: Clock, misfire: Misfire
) -> None:
    await scheduler(workshop, clock, misfire=misfire).tick()
    clock.now = NOON + timedelta(seconds=59)
    await scheduler(workshop, clock, misfire=misfire).tick()
    assert await times_fired(workshop) == ["01 12:00"]
    assert (await state(workshop))["skipped"] == 0


async def test_of_a_great_many_missed_times_the_latest_are_made_up_for(
    workshop: Workshop, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    await scheduler(workshop, clock, misfire=Misfire.ALL, cron="* * * * *").tick()
    clock.now += timedelta(days=30)
    await scheduler(workshop, clock, misfire=Misfire.ALL, cron="* * * * *").tick()
    made_up = await times_fired(workshop)
    assert len(made_up) == MADE_UP_MOST
    assert (made_up[0], made_up[-1]) == ("01 09:51", "01 11:30")
    assert (await state(workshop))["skipped"] == COUNTED_MOST
    assert f"at least {COUNTED_MOST} missed times" in caplog.text


async def test_what_was_skipped_is_told_and_adds_up(workshop: Workshop, clock: Clock) -> None:
    for later in (0, 3, 6):
        clock.now = NOON - 30 * MINUTE + later * HOUR
        await scheduler(workshop, clock, misfire=Misfire.LAST).tick()
    (page,) = await scheduler(workshop, clock).page()
    assert (page["skipped"], page["skipped_last"]) == (4, (NOON + 4 * HOUR).isoformat())
    assert page["last"]["due"] == (NOON + 5 * HOUR).isoformat()


# crashes


class Died(BaseException):
    """The process was killed."""


def die_at(step: str, workshop: Workshop) -> None:
    def at(reached: str) -> None:
        if reached == step:
            workshop.at = lambda step: None
            raise Died

    workshop.at = at


STEPS = ("acceptance.after_store", "acceptance.after_publish", "schedules.after_fire", "schedules.after_note")


@pytest.mark.parametrize("misfire", Misfire)
@pytest.mark.parametrize("late", [timedelta(seconds=10), timedelta(hours=2)], ids=["at once", "after hours"])
@pytest.mark.parametrize("step", STEPS)
async def test_who_dies_while_firing_leaves_a_run_that_is_carried_out_once_and_not_told_as_skipped(
    workshop: Workshop, clock: Clock, step: str, misfire: Misfire, late: timedelta
) -> None:
    one = scheduler(workshop, clock, misfire=misfire)
    await one.tick()
    clock.now = NOON
    die_at(step, workshop)
    with pytest.raises(Died):
        await one.tick()
    clock.now = NOON + late + MINUTE / 2
    await scheduler(workshop, clock, misfire=misfire).tick()
    assert {c.run_id for c in await fired(workshop)} >= {run_of(NAME, NOON)}
    assert (await stored(workshop)).count(command_key(run_of(NAME, NOON))) == 1
    told = [AuditRecord.model_validate_json(d.message.body) for d in await taken(workshop, AUDIT_QUEUE)]
    assert run_of(NAME, NOON) in {record.run_id for record in told}
    document = await state(workshop)
    # noon was fired; of the two hours after it the latest is on time
    assert document["skipped"] == (1 if late >= HOUR and misfire is not Misfire.ALL else 0)
    assert datetime.fromisoformat(document["last"]["due"]) == NOON + (late - late % HOUR)


async def test_who_dies_between_two_missed_times_goes_on_with_the_rest(workshop: Workshop, clock: Clock) -> None:
    await scheduler(workshop, clock, misfire=Misfire.ALL).tick()
    clock.now = NOON + 2 * HOUR + 10 * MINUTE
    die_at("schedules.after_note", workshop)
    with pytest.raises(Died):
        await scheduler(workshop, clock, misfire=Misfire.ALL).tick()
    assert await times_fired(workshop) == ["01 12:00"]
    await scheduler(workshop, clock, misfire=Misfire.ALL).tick()
    assert await times_fired(workshop) == ["01 13:00", "01 14:00"]


# servers that are away


async def test_while_the_store_is_away_a_schedule_waits_and_fires_when_it_is_back(
    workshop: Workshop, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = scheduler(workshop, clock, misfire=Misfire.NONE)
    await one.tick()

    async def away(*_: object, **__: object) -> None:
        raise TransientFailure("no answer", dependency="minio", away=True)

    clock.now = NOON
    with monkeypatch.context() as patch:
        patch.setattr(workshop.store, "read", away)
        await one.tick()
        assert await fired(workshop) == []
    clock.now = NOON + timedelta(seconds=1)
    await one.tick()
    assert await fired(workshop) == []  # it does not knock at the door each second
    clock.now = NOON + timedelta(seconds=6)
    await one.tick()
    assert await times_fired(workshop) == ["01 12:00"]


async def test_a_command_that_the_broker_did_not_take_stays_and_counts_as_fired_however_long_that_lasts(
    workshop: Workshop, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = scheduler(workshop, clock, misfire=Misfire.NONE)
    await one.tick()

    async def away(*_: object) -> None:
        raise TransientFailure("no answer", dependency="rabbitmq", away=True)

    clock.now = NOON
    with monkeypatch.context() as patch:
        patch.setattr(workshop.bus, "publish", away)
        await one.tick()
    assert await stored(workshop) == [command_key(run_of(NAME, NOON))]
    clock.now = NOON + 30 * MINUTE
    await one.tick()
    assert await times_fired(workshop) == ["01 12:00"]
    assert (await state(workshop))["skipped"] == 0


async def test_one_schedule_that_fails_does_not_keep_another_from_firing(
    workshop: Workshop, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = load_schedules(
        registry_of(Schedule("bad", "0 * * * *", "UTC", SOURCE), Schedule("good", "0 * * * *", "UTC", SOURCE))
    )
    one = Scheduler(workshop, planned, chosen(["*"], planned), 5, clock)
    await one.tick()
    create = workshop.store.create

    async def broken(layer: Layer, key: str, *more: Any, **named: Any) -> ObjectInfo | None:
        if key == command_key(run_of("bad", NOON)):
            raise RuntimeError("a bug")
        return await create(layer, key, *more, **named)

    clock.now = NOON
    with monkeypatch.context() as patch:
        patch.setattr(workshop.store, "create", broken)
        await one.tick()
    assert [c.run_id for c in await fired(workshop)] == [run_of("good", NOON)]
    clock.now = NOON + MINUTE
    await one.tick()
    assert [c.run_id for c in await fired(workshop)] == [run_of("bad", NOON)]


# clocks


async def test_it_comes_again_when_the_next_time_comes_and_looks_at_the_clock_meanwhile(
    workshop: Workshop, clock: Clock
) -> None:
    one = scheduler(workshop, clock)
    assert await one.tick() == LOOK_SECONDS
    clock.now = NOON - timedelta(seconds=0.3)
    assert await one.tick() == pytest.approx(0.3)
    assert await scheduler(workshop, clock, active="").tick() == LOOK_SECONDS


async def test_a_machine_that_slept_over_a_time_fires_when_it_wakes(workshop: Workshop, clock: Clock) -> None:
    one = scheduler(workshop, clock)
    await one.tick()
    clock.now = NOON + 7 * HOUR + 10 * MINUTE
    await one.tick()
    assert await times_fired(workshop) == ["01 19:00"]


async def test_a_clock_that_is_set_back_fires_no_time_twice_and_misses_none(workshop: Workshop, clock: Clock) -> None:
    one = scheduler(workshop, clock)
    await one.tick()
    for minutes in (0, 60, 120):
        clock.now = NOON + minutes * MINUTE
        await one.tick()
    assert await times_fired(workshop) == ["01 12:00", "01 13:00", "01 14:00"]
    for key in await stored(workshop):
        await carry_out(workshop, UUID(key.removeprefix("commands/").removesuffix(".json")))
    clock.now = NOON + 50 * MINUTE
    for _ in range(14):
        await one.tick()
        clock.now += 10 * MINUTE
    assert await times_fired(workshop) == ["01 15:00"]


async def test_a_clock_that_was_years_ahead_does_not_silence_a_schedule(workshop: Workshop, clock: Clock) -> None:
    one = scheduler(workshop, clock)
    await one.tick()
    clock.now = NOON + timedelta(days=3000)
    await one.tick()
    clock.now = NOON - 29 * MINUTE
    await one.tick()
    await fired(workshop)
    for again in (one, scheduler(workshop, clock)):
        clock.now += HOUR
        await again.tick()
    assert await times_fired(workshop) == ["01 12:00", "01 13:00"]


# a definition that changed


async def test_a_changed_source_or_policy_is_that_of_the_next_run_also_of_a_missed_one(
    workshop: Workshop, clock: Clock
) -> None:
    await scheduler(workshop, clock).tick()
    clock.now = NOON + 10 * MINUTE
    await scheduler(workshop, clock, source={**SOURCE, "rows": 20}).tick()
    (command,) = await fired(workshop)
    assert command.source.model_dump() == {"kind": "synthetic", "rows": 20}


@pytest.mark.parametrize("changed", [{"cron": "15 * * * *"}, {"timezone": "Asia/Kathmandu"}])
async def test_changed_times_count_from_when_they_are_first_seen(
    workshop: Workshop, clock: Clock, changed: Mapping[str, str]
) -> None:
    """In Kathmandu each full hour is a quarter past in UTC."""
    await scheduler(workshop, clock, misfire=Misfire.ALL).tick()
    clock.now = NOON + 3 * HOUR
    again = scheduler(workshop, clock, misfire=Misfire.ALL, **changed)
    await again.tick()
    assert await fired(workshop) == []
    clock.now = NOON + 3 * HOUR + 15 * MINUTE
    await again.tick()
    assert await times_fired(workshop) == ["01 15:15"]


async def test_an_old_and_a_new_reconciler_side_by_side_each_fire_their_own_times(
    workshop: Workshop, clock: Clock
) -> None:
    old, new = scheduler(workshop, clock), scheduler(workshop, clock, cron="20 * * * *")
    for minutes in range(0, 125, 5):
        clock.now = NOON - 30 * MINUTE + minutes * MINUTE
        await old.tick()
        await new.tick()
    assert await times_fired(workshop) == ["01 12:00", "01 12:20", "01 13:00", "01 13:20"]


async def test_what_came_due_while_a_schedule_was_at_rest_is_not_made_up_for(workshop: Workshop, clock: Clock) -> None:
    await scheduler(workshop, clock, misfire=Misfire.ALL).tick()
    await scheduler(workshop, clock, misfire=Misfire.ALL, active="").tick()
    clock.now = NOON + 3 * HOUR + 10 * MINUTE
    again = scheduler(workshop, clock, misfire=Misfire.ALL)
    await again.tick()
    assert await fired(workshop) == []
    clock.now = NOON + 4 * HOUR
    await again.tick()
    assert await times_fired(workshop) == ["01 16:00"]


async def test_a_state_that_nobody_can_read_is_begun_anew(workshop: Workshop, clock: Clock) -> None:
    await put(workshop, Layer.LEDGER, schedule_key(NAME), b'{"schema_version": 99}')
    one = scheduler(workshop, clock)
    await one.tick()
    clock.now = NOON
    await one.tick()
    assert await times_fired(workshop) == ["01 12:00"]


# what is asked for


@pytest.mark.parametrize(
    ("source", "dataset"),
    [
        ({"kind": "postgres", "tables": ["accounts", "payments"]}, "_tables"),
        ({"kind": "postgres", "pack": "subscriptions"}, "_tables"),
        ({"kind": "postgres", "tables": (DATASET,)}, DATASET),
        ({"kind": "postgres"}, DATASET),
    ],
)
async def test_a_source_that_names_several_tables_is_a_run_of_several(
    workshop: Workshop, clock: Clock, source: Mapping[str, Any], dataset: str
) -> None:
    assert (await scheduler(workshop, clock, source=source).fire(NAME)).dataset == dataset


BAD = Schedule("bad", "0 25 * * *", "UTC", SOURCE)
GOOD = Schedule("good", "0 5 * * *", "UTC", SOURCE)


@pytest.mark.parametrize(
    ("schedules", "told"),
    [
        ([BAD], "schedule 'bad': '0 25 * * *' is no cron expression: bad hour"),
        ([replace(BAD, cron="0 5 * * *", timezone="Mars/Olympus")], "'Mars/Olympus' is no time zone"),
        ([replace(GOOD, source={"rows": 1})], "schedule 'good': a source has a kind"),
        ([replace(GOOD, name="../x")], "a name is of a-z"),
        ([replace(GOOD, name="*")], "a name is of a-z"),
        ([GOOD, GOOD], "has a schedule of that name"),
        ([BAD, replace(BAD, name="worse")], "schedule 'worse'"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_told_with_its_dataset(schedules: list[Schedule], told: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^dataset {DATASET}, ") as caught:
        load_schedules(registry_of(*schedules))
    assert told in str(caught.value)


def test_those_that_are_fired_are_named_or_all_are() -> None:
    planned = load_schedules(registry_of(GOOD, replace(GOOD, name="other")))
    assert chosen(["other"], planned) == {"other"}
    assert chosen(["*"], planned) == chosen(["other", "*"], planned) == {"good", "other"}
    assert chosen([], planned) == frozenset()
    with pytest.raises(ConfigurationError, match=r"no schedule is named gut, schlecht; there is: good, other;"):
        chosen(["gut", "good", "schlecht"], planned)


def test_the_setting_is_a_list_with_commas_and_an_unknown_name_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACEQUIA_SCHEDULES", " network_daily, ")
    assert load(ScheduleSettings).schedules == ("network_daily",)
    monkeypatch.setenv("ACEQUIA_SCHEDULES", "network_dayly")
    with pytest.raises(ConfigurationError) as caught:
        check(ReconcilerSettings, ScheduleSettings)
    told = str(caught.value)
    assert told.startswith("settings: ACEQUIA_SCHEDULES: no schedule is named network_dayly; there is: ")
    assert "network_daily" in told


def test_the_shipped_schedules_are_a_daily_network_batch_and_the_tables_at_six_in_mexico_city() -> None:
    planned = load_schedules(load_registry())
    network, tables = planned["network_daily"], planned["subscriptions_daily"]
    assert (network.schedule.cron, network.source.kind) == ("0 2 * * *", "synthetic")
    assert (tables.schedule.cron, tables.schedule.timezone) == ("0 6 * * *", "America/Mexico_City")


@pytest.mark.parametrize("planned", [pytest.param(p, id=name) for name, p in load_schedules(load_registry()).items()])
def test_a_shipped_schedule_asks_for_what_its_source_gives(planned: Planned) -> None:
    """As the ingestor judges it when it carries the run out."""
    registry, sources = load_registry(), load_sources()
    command = planned.command(None, 5)
    source, asked = read_request(command.source, sources)
    named = None if command.dataset == SEVERAL else command.dataset
    assert planned.dataset in source.datasets(asked, named, registry, IngestorSettings())


# HTTP


@pytest.fixture
async def http(workshop: Workshop, clock: Clock) -> AsyncIterator[httpx.AsyncClient]:
    app = make_app("test")
    workshop.registry = registry_of(
        Schedule(NAME, "0 6 * * *", "America/Mexico_City", SOURCE, Misfire.ALL),
        Schedule("other", "0 * * * *", "UTC", SOURCE),
    )
    settings = ScheduleSettings.model_construct(schedules=(NAME,))
    one = make_scheduler(workshop, settings, CommandSettings(), clock=clock)
    for router in ReconcilerService(workshop, TABLE, ReconcilerSettings(), one).routers:
        app.include_router(router)
    await one.tick()
    clock.now = NOON + timedelta(seconds=0.5)
    await one.tick()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


async def test_the_page_of_schedules_tells_what_comes_next_and_what_came_last(http: httpx.AsyncClient) -> None:
    hourly, other = (await http.get("/schedules")).json()["schedules"]
    assert hourly == {
        "name": NAME,
        "dataset": DATASET,
        "cron": "0 6 * * *",
        "timezone": "America/Mexico_City",
        "source": SOURCE,
        "misfire": "all",
        "active": True,
        "next": {"due": "2026-06-02T12:00:00+00:00", "local": "2026-06-02T06:00:00-06:00"},
        "last": {
            "due": "2026-06-01T12:00:00+00:00",
            "local": "2026-06-01T06:00:00-06:00",
            "fired": "2026-06-01T12:00:00.500000+00:00",
            "run_id": str(run_of(NAME, NOON)),
        },
        "skipped": 0,
        "skipped_last": None,
    }
    assert (other["active"], other["next"], other["last"]) == (False, None, None)


async def test_a_schedule_is_fired_by_hand_each_time_as_a_run_of_its_own(
    http: httpx.AsyncClient, workshop: Workshop
) -> None:
    await fired(workshop)
    answers = [await http.post("/schedules/other/fire") for _ in range(2)]
    assert [a.status_code for a in answers] == [202, 202]
    runs = {UUID(a.json()["run_id"]) for a in answers}
    commands = await fired(workshop)
    assert {c.run_id for c in commands} == runs
    assert len(runs) == 2
    assert all(c.schedule and c.schedule.name == "other" and c.schedule.due is None for c in commands)
    # its own times know nothing of it
    assert (await http.get("/schedules")).json()["schedules"][1]["last"] is None


async def test_an_unknown_schedule_is_answered_with_those_that_there_are(http: httpx.AsyncClient) -> None:
    answer = await http.post("/schedules/nightly/fire")
    assert answer.status_code == 404
    assert answer.json()["allowed"] == [NAME, "other"]


async def test_a_service_fires_by_itself_and_says_when_its_clock_has_stopped(
    workshop: Workshop, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = scheduler(workshop, clock)
    await one.tick()
    clock.now = NOON
    service = ReconcilerService(workshop, TABLE, ReconcilerSettings(), one)
    sent = asyncio.Event()
    publish = workshop.bus.publish

    async def seen(exchange: str, routing_key: str, message: Message) -> None:
        await publish(exchange, routing_key, message)
        sent.set()

    monkeypatch.setattr(workshop.bus, "publish", seen)
    await service.start()
    await asyncio.wait_for(sent.wait(), 60)
    await service.check()
    await service.stop(0)
    with pytest.raises(TransientFailure, match="does not run"):
        await service.check()
    assert await times_fired(workshop) == ["01 12:00"]


async def test_where_schedules_are_only_looked_at_none_fires(workshop: Workshop, clock: Clock) -> None:
    one = scheduler(workshop, clock)
    await one.tick()
    clock.now = NOON
    asked = clock.asked
    service = ReconcilerService(workshop, TABLE, ReconcilerSettings(), one, fires=False)
    await service.start()
    await asyncio.sleep(0)  # each of its tasks has begun
    await service.check()
    await service.stop(0)
    assert clock.asked == asked
