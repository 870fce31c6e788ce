"""A training that takes longer than the broker waits for an acknowledgement keeps its place.

RabbitMQ closes the channel of a consumer that holds a message for longer than its consumer time-out (30 minutes; a
few seconds here), and gives the message to another.
"""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage

from harness.fleet import SERVICES, Fleet

# the scripts below deploy/native import each other by name, as they do when they run
sys.path.append(str(Path(__file__).resolve().parents[2] / "deploy" / "native"))

PATIENCE_SECONDS = 4
TREES = "4000"

pytestmark = [pytest.mark.timeout(600), pytest.mark.stack]


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Fleet]:
    """The services on servers of their own, whose broker waits for seconds only."""
    if "STACK_DIR" not in os.environ:
        pytest.skip("changes a setting of the broker, which it can where servers run natively: ACEQUIA_STACK=native")
    import servers
    import stack as native
    from parts import find_parts

    there = native.bring_up(None, owner=servers.Process.of(os.getpid()))
    try:
        environment = servers.rabbitmq_environment(there)
        control = find_parts().rabbitmq.with_name("rabbitmqctl")
        impatience = (
            f"application:set_env(rabbit, consumer_timeout, {PATIENCE_SECONDS * 1000}), "
            "application:set_env(rabbit, channel_tick_interval, 500)."
        )
        subprocess.run(
            [str(control), "-n", environment["RABBITMQ_NODENAME"], "eval", impatience],
            env={**os.environ, **environment},
            check=True,
            capture_output=True,
            timeout=60,
        )
        fleet = Fleet(
            {**there.environment(), "ACEQUIA_TRAINER_N_ESTIMATORS": TREES, "ACEQUIA_TRAINER_WINDOW_OBJECTS": "1"},
            tmp_path,
        )
        try:
            fleet.start(*SERVICES)
            yield fleet
        finally:
            fleet.close()
    finally:
        servers.stop_servers(there)
        shutil.rmtree(there.folder)


async def _keep(message: AbstractIncomingMessage) -> None:
    """Acknowledge nothing."""


async def _holds_a_message(url: str) -> bool:
    """Whether a consumer that acknowledges nothing keeps its channel for longer than the broker's patience."""
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("patience", durable=True, arguments={"x-queue-type": "quorum"})
        await channel.default_exchange.publish(aio_pika.Message(b"x"), "patience")
        await queue.consume(_keep)
        for _ in range(PATIENCE_SECONDS * 10):
            if channel.is_closed:
                return False
            await asyncio.sleep(0.5)
        return True


def test_a_training_that_outlasts_the_brokers_patience_is_done_once(impatient: Fleet) -> None:
    fleet = impatient
    assert not asyncio.run(_holds_a_message(fleet.env["RABBITMQ_URL"])), "the broker is as patient as ever"
    first = fleet.post(rows=3000, seed=1).json()["run_id"]
    fleet.wait(lambda: fleet.said("trainer", "start 1"), "no training starts")
    second = fleet.post(rows=3000, seed=2).json()["run_id"]  # its object comes to a trainer that is at work
    for run_id in (first, second):
        page = fleet.finished(run_id, 300)
        assert page["state"] == "done"
        assert [event["status"] for event in page["stages"]["trainer"] if event["kind"] == "outcome"] == ["SUCCESS"]
        (trained,) = [event for event in page["stages"]["trainer"] if event["kind"] == "outcome"]
        assert trained["attempt"] == 1
    assert fleet.said("trainer", "start 1") == 2
    assert fleet.said("trainer", "start 2") == 0
    assert fleet.said("trainer", "is interrupted") == 0
