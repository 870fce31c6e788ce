"""The doctor on a MinIO of the test's own, each of whose targets has another mistake in it."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from acequia.adapters.minio import MinioStore
from acequia.adapters.rabbit import RabbitBus
from acequia.layers import Buckets
from acequia.topology import topology
from acequia_cli.commands import Output
from acequia_cli.doctor.command import Doctor

pytestmark = pytest.mark.stack

NATIVE = Path(__file__).resolve().parents[2] / "deploy" / "native"
REGION = "somewhere"


@pytest.fixture(scope="module")
def wrong_minio(stack, tmp_path_factory) -> Iterator[dict[str, str]]:
    """A second MinIO beside the stack's, on the same broker; the settings by which it is reached."""
    if stack.folder is None:
        pytest.skip("a second MinIO is started only beside the native servers")
    sys.path.append(str(NATIVE))
    from parts import find_parts
    from servers import Stack, minio_answers, minio_environment

    known = Stack.from_json(json.loads((stack.folder / "state.json").read_text()))
    folder = tmp_path_factory.mktemp("minio")
    environment = {
        "PATH": os.environ["PATH"],
        **minio_environment(replace(known, folder=folder)),
        "HOME": str(folder),
        "MINIO_REGION": REGION,
        "MINIO_NOTIFY_AMQP_DURABLE_LANDING": "off",
        "MINIO_NOTIFY_AMQP_ROUTING_KEY_RAW": "object.cooked",
        "MINIO_NOTIFY_AMQP_QUEUE_DIR_SILVER": str(folder / "queue"),
        "MINIO_NOTIFY_AMQP_DELIVERY_MODE_MODELS": "1",
    }
    port = free_port()
    command = [str(find_parts().minio), "server", "--address", f"127.0.0.1:{port}"]
    command += ["--console-address", f"127.0.0.1:{free_port()}", str(folder / "data")]
    with (folder / "minio.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    try:
        end = time.monotonic() + 60
        while not minio_answers(port):
            assert time.monotonic() < end, (folder / "minio.log").read_text()[-1000:]
            time.sleep(0.1)
        yield {"MINIO_ENDPOINT": f"127.0.0.1:{port}", "MINIO_REGION": REGION, "MINIO_NOTIFY_REGION": REGION}
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
async def examine(stack, wrong_minio, clean_queues, fresh_prefix, monkeypatch, capsys):
    """The findings of the doctor by check, with the topology applied to that store and the broker."""
    for name, value in {**stack.env, **wrong_minio, "ACEQUIA_BUCKET_PREFIX": fresh_prefix}.items():
        monkeypatch.setenv(name, value)
    table = topology(Buckets(fresh_prefix))
    settings = stack.minio.model_copy(
        update={"endpoint": wrong_minio["MINIO_ENDPOINT"], "region": REGION, "notify_region": REGION}
    )
    async with await RabbitBus.connect(stack.rabbit) as bus, await MinioStore.open(settings, table.buckets) as store:
        await bus.apply(table)
        await store.apply(table)

    async def examine(**changed: str):
        for name, value in changed.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        await Doctor(Path("nowhere"), pause=0.1).run(Output.open(as_json=True))
        return {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)["checks"]}

    return examine


async def test_each_mistake_in_a_target_has_its_explanation(examine):
    found = await examine()
    landing, raw = found["events of landing"], found["events of raw"]
    silver, models = found["events of silver"], found["events of models"]
    assert landing["state"] == "fail"
    assert "nothing came to the exchange acequia.objects" in landing["said"]
    assert "_DURABLE_LANDING=on" in landing["mend"]
    assert raw["state"] == "fail"
    assert "'object.cooked' instead of 'object.raw'" in raw["said"]
    assert "MINIO_NOTIFY_AMQP_ROUTING_KEY_RAW=object.raw" in raw["mend"]
    assert silver["state"] == "warn"
    assert "its event came" in silver["said"]
    assert "drop MINIO_NOTIFY_AMQP_QUEUE_DIR_SILVER" in silver["mend"]
    assert models["state"] == "warn"
    assert "marked as transient" in models["said"]
    assert "MINIO_NOTIFY_AMQP_DELIVERY_MODE_MODELS=2" in models["mend"]


async def test_another_region_than_the_stores(examine):
    found = await examine(MINIO_REGION="us-east-1")
    assert found["store login"]["state"] == "fail"
    assert "has another region than MINIO_REGION=us-east-1" in found["store login"]["said"]
    assert "set MINIO_REGION" in found["store login"]["mend"]


async def test_another_region_in_the_targets_names(examine):
    found = await examine(MINIO_NOTIFY_REGION="elsewhere")
    assert found["notification targets"]["state"] == "fail"
    assert "arn:minio:sqs:elsewhere:RAW:amqp" in found["notification targets"]["said"]
    assert "set MINIO_NOTIFY_REGION here to its MINIO_REGION" in found["notification targets"]["mend"]
