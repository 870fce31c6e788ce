"""Two auditor processes on the real servers, killed again and again: one chain, each record once."""

import asyncio
import json

import httpx

from acequia.adapters.rabbit import RabbitBus
from acequia.topology import AUDIT, topology
from harness.fleet import Fleet

RECORDS, KILLS = 1000, 4


async def test_two_auditors_that_are_killed_again_and_again_write_one_chain_with_each_record_once(
    stack, fresh_prefix, fresh_database, clean_queues, buckets, deliver, tale, tmp_path
):
    await clean_queues((1, 2, 2))
    env = {
        **stack.env,
        "ACEQUIA_BUCKET_PREFIX": fresh_prefix,
        "PG_DATABASE": fresh_database.database,
        "ACEQUIA_AUDITOR_ANCHOR_INTERVAL": "0.1",
        "ACEQUIA_AUDITOR_PREFETCH": "20",
        "ACEQUIA_STOP_GRACE": "5",
    }
    fleet = Fleet(env, tmp_path, ("auditor", "auditor.2", "reconciler"))
    both = ("auditor", "auditor.2")
    await asyncio.to_thread(fleet.start, *both)
    bus = await RabbitBus.connect(stack.rabbit)
    await bus.apply(topology(buckets, (1, 2, 2)))

    async def publish(share):
        for record in share:
            await bus.publish(AUDIT, "record", deliver(record).message)

    async def asked(path):
        async with httpx.AsyncClient(base_url=fleet.url("auditor"), timeout=60) as client:
            return json.loads((await client.get(path)).text.splitlines()[-1])["result"]

    records = [tale().accepted() for _ in range(RECORDS)]
    try:
        publishing = asyncio.gather(*(publish(records[n::10]) for n in range(10)))
        for n in range(KILLS):
            await asyncio.sleep(0.3)
            fleet.kill(both[n % 2])
            await asyncio.to_thread(fleet.start, both[n % 2])
        await publishing
        while (result := await asked("/audit/verify"))["records"] < RECORDS:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        assert (result["problems"], result["records"], result["head"]["seq"]) == ([], RECORDS, RECORDS)
        assert result["anchors"] > 1
        assert await asyncio.to_thread(fleet.stop, "auditor.2") == 0
        assert (await asked("/audit/verify"))["last_anchor"]["seq"] == RECORDS
    finally:
        await bus.close()
        fleet.close()
