"""A run is finished when its objects are in their table too; a plan of the lakehouse is a run that makes no model."""

from typing import Any
from uuid import UUID

import httpx
import pytest

from acequia.datasets import Registry, load_registry
from acequia.events import AuditRecord, Kind, ObjectRecord, Status
from acequia.layers import Layer, folder_key
from acequia_auditor.database import Database
from acequia_auditor.write import store_records


@pytest.fixture
def registry() -> Registry:
    return load_registry()


def brought_in(plan: Any, *inputs: ObjectRecord, status: Status = Status.SUCCESS) -> AuditRecord:
    """The outcome of a plan of the lakehouse, whose run is its own."""
    commit = plan.obj(Layer.LAKE, folder_key(plan.plan, "v1-aaaaaa", "commit.json"))
    record: AuditRecord = plan.record(
        Kind.OUTCOME,
        status,
        "lakehouse",
        f"plans/lakehouse/{plan.number}",
        inputs=inputs,
        outputs=(commit,),
        stem=str(plan.plan),
    )
    return record


async def page(client: httpx.AsyncClient, run_id: UUID) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(f"/runs/{run_id}")).json()
    return found


async def test_a_run_waits_for_the_trainer_and_for_the_lakehouse(
    database: Database, client: httpx.AsyncClient, tale: Any, training: Any
) -> None:
    one, plan, lake = tale(), training(), training()
    await store_records(database, [one.accepted(), one.ingested(10), one.transformed()])
    await store_records(database, [plan.trained(one.silver()), plan.evaluated()])
    assert (await page(client, one.run_id))["state"] == "running"

    await store_records(database, [brought_in(lake, one.silver())])

    found = await page(client, one.run_id)
    assert (found["state"], found["finished"], found["model"]) == ("done", True, plan.model)
    assert [uri.rpartition("/")[2] for uri in found["artifacts"]["lake"]] == ["commit.json"]


async def test_a_plan_of_the_lakehouse_is_a_run_that_is_done_without_a_model(
    database: Database, client: httpx.AsyncClient, tale: Any, training: Any
) -> None:
    one, lake = tale(), training()
    await store_records(database, [one.accepted(), one.ingested(10), one.transformed(), brought_in(lake, one.silver())])

    found = await page(client, lake.run_id)

    assert (found["state"], found["model"], found["error"]) == ("done", None, None)


async def test_a_run_is_done_where_its_trainings_are_and_says_what_the_lakehouse_rejected(
    database: Database, client: httpx.AsyncClient, tale: Any, training: Any
) -> None:
    one, plan, lake = tale(), training(), training()
    await store_records(database, [one.accepted(), one.ingested(10), one.transformed()])
    await store_records(database, [plan.trained(one.silver()), plan.evaluated()])
    await store_records(database, [brought_in(lake, one.silver(), status=Status.REJECTED)])

    found = await page(client, one.run_id)

    assert (found["state"], found["finished"]) == ("done", True)
    assert [event["status"] for event in found["stages"]["lakehouse"]] == ["REJECTED"]
