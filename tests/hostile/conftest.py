"""One house for all cases: embedded always, and over the real servers where they are."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import pytest_asyncio

from acequia.cards import ModelCard
from acequia.events import AuditRecord, Status
from acequia.layers import Layer, Stem, run_id_of
from acequia.ports import Ack, Delivery, Message, ObjectInfo, Settlement
from acequia.runner import FOLDER_PREFIX, Workshop, keep_going
from acequia.topology import AUDIT, Binding, Exchange, Queue, Topology
from harness.database import own_database
from harness.house import Place, open_house
from hostile.cases import good

PATIENCE = 120.0
"""Seconds until a test gives up on something that has to happen."""
SETTINGS = {
    "ACEQUIA_RETRY_DELAYS": "1,1",
    "ACEQUIA_TRAINER_N_ESTIMATORS": "3",
    "ACEQUIA_TRAINER_WINDOW_OBJECTS": "0",
}
Told = Callable[[AuditRecord], bool]


@dataclass
class Home:
    """A running installation, and what its services told the audit."""

    adapter: str
    client: httpx.AsyncClient
    workshop: Workshop
    temp: Path
    heard: list[AuditRecord] = field(default_factory=list)
    _numbers: "count[int]" = field(default_factory=lambda: count(1000))

    def number(self) -> int:
        """One that nobody else was given, far from its neighbours."""
        return next(self._numbers) * 1000

    async def hear(self) -> None:
        """Listen to the audit beside the auditor."""
        name = f"hostile.{uuid4().hex[:10]}"
        queue, binding = Queue(name, "tester", None), Binding(AUDIT, name, "#")
        await self.workshop.bus.apply(Topology((Exchange(AUDIT),), (queue,), (binding,), self.workshop.buckets, ()))

        async def keep(delivery: Delivery) -> Settlement:
            self.heard.append(AuditRecord.model_validate_json(delivery.message.body))
            return Ack()

        await self.workshop.bus.consume(name, keep, concurrency=16)

    async def told(self, wanted: Told, what: str, after: int = 0) -> AuditRecord:
        """The first record (of those from number `after` on) that `wanted` is true for, once it was heard."""
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    for record in self.heard[after:]:
                        if wanted(record):
                            return record
                    await asyncio.sleep(0.01)
        except TimeoutError:
            last = [f"{r.stage} {r.status} {r.error.message[:200] if r.error else ''}" for r in self.heard[after:]]
            raise AssertionError(f"not heard of: {what}; heard: {last}") from None

    def ignored(self, stage: str, reason: str) -> float:
        registry = self.workshop.meters.registry
        return registry.get_sample_value("acequia_ignored_total", {"stage": stage, "reason": reason}) or 0.0

    async def manifest(self, record: AuditRecord) -> dict[str, Any]:
        """The manifest in QUARANTINE that a record of rejection names."""
        bucket = self.workshop.buckets.uri(Layer.QUARANTINE, "")
        (uri,) = [output.uri for output in record.outputs if output.uri.endswith(".rejected.json")]
        found = await self.workshop.store.read(Layer.QUARANTINE, uri.removeprefix(bucket))
        assert found is not None
        document: dict[str, Any] = json.loads(found[0])
        return document

    async def land(self, key: str, content: bytes, metadata: dict[str, str]) -> tuple[ObjectInfo, UUID]:
        """Put an object into LANDING as a person would; the run it belongs to."""
        info = await self.workshop.store.put(
            Layer.LANDING, key, content, metadata=metadata, content_type="application/octet-stream"
        )
        bucket = self.workshop.buckets.of(Layer.LANDING)
        return info, run_id_of(metadata.get("acequia-run-id"), bucket, key, info.etag)

    async def send(self, exchange: str, key: str, body: bytes) -> str:
        """Publish a message; its id."""
        message = Message(body, message_id=str(uuid4()), type="IngestionCommand" if key == "ingest" else "")
        await self.workshop.bus.publish(exchange, key, message)
        return message.message_id

    async def processes_a_good_object(self, until: str = "transformer") -> AuditRecord:
        """Upload an ordinary file and see it come through `until`."""
        answer = await self.client.put("/ingestions/files/good.csv?dataset=network_events", content=good(self.number()))
        assert answer.status_code == 202, answer.text
        run_id = UUID(answer.json()["run_id"])

        def passed(record: AuditRecord) -> bool:
            return record.stage == until and record.status is Status.SUCCESS and run_id == record.run_id

        if until == "transformer":
            return await self.told(passed, f"a good object at the {until}")
        trained = await self.told(
            lambda r: r.stage == "trainer" and r.status is Status.SUCCESS and run_id in r.parents, "a good training"
        )
        run_id = trained.run_id
        return await self.told(passed, f"a good object at the {until}")

    async def genuine_card(self) -> tuple[ModelCard, bytes]:
        """A model of a good object: its card, and its file."""
        trained = await self.processes_a_good_object(until="evaluator")
        (uri,) = [i.uri for i in trained.inputs if i.uri.endswith("/model.json")]
        key = uri.removeprefix(self.workshop.buckets.uri(Layer.MODELS, ""))
        found = await self.workshop.store.read(Layer.MODELS, key)
        assert found is not None
        card = ModelCard.model_validate_json(found[0])
        file = await self.workshop.store.read(Layer.MODELS, card.artifact.key)
        assert file is not None
        return card, file[0]

    def stem(self, *, plan: bool = False) -> Stem:
        """The name of an object that somebody made up."""
        number, at = self.number(), datetime.now(UTC).replace(microsecond=0)
        return Stem("network_events", at, plan=number) if plan else Stem("network_events", at, f"{number:016x}", 1)

    def left_behind(self) -> list[str]:
        """Temporary folders of work that has ended."""
        return [path.name for path in self.temp.iterdir() if re.match(FOLDER_PREFIX, path.name)]


@pytest.fixture(scope="module", params=["embedded", pytest.param("real", marks=pytest.mark.stack)])
def adapter(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def home(
    adapter: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Home]:
    temp = tmp_path_factory.mktemp("temp")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**SETTINGS, "ACEQUIA_TEMP_DIR": str(temp)}.items():
            patch.setenv(name, value)
        place = Place(tmp_path_factory.mktemp("house"))
        async with AsyncExitStack() as at_the_end:
            if adapter == "real":
                stack = request.getfixturevalue("stack")
                database = await at_the_end.enter_async_context(own_database(stack.postgres))
                prefix = f"t{uuid4().hex[:12]}"
                place = replace(place, minio=stack.minio, rabbit=stack.rabbit, postgres=database, prefix=prefix)
            client, workshop = await at_the_end.enter_async_context(open_house(place, keep_going))
            workshop.temp_dir = temp
            there = Home(adapter, client, workshop, temp)
            await there.hear()
            yield there
