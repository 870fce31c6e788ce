"""The doctor where no server is set: it examines the folder, without a server to set up."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from acequia.adapters.sqlite import SqliteBus
from acequia.layers import CANARY_PREFIX
from acequia_cli.commands import Output
from acequia_cli.doctor import embedded
from acequia_cli.doctor.command import SERVERS, Doctor
from acequia_cli.doctor.findings import Chart
from acequia_cli.doctor.services import examine_services
from acequia_cli.embedded import Embedded

Examine = Callable[[], Any]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user of the machine may enter: started by root, PostgreSQL runs as a user of its own."""
    with tempfile.TemporaryDirectory(prefix="acequia-doctor-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture
def data(open_folder) -> Path:
    return open_folder / "data"


@pytest.fixture
def examine(data, monkeypatch, capsys) -> Examine:
    """The exit code and the findings by check."""
    for name in [n for n in os.environ if n.startswith("ACEQUIA_") or n in SERVERS]:
        monkeypatch.delenv(name)

    async def examine() -> tuple[int, dict[str, dict[str, str]]]:
        capsys.readouterr()
        code = await Doctor(data).run(Output.open(as_json=True))
        return code, {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)["checks"]}

    return examine


async def test_where_there_is_no_installation_all_is_tried_and_nothing_stays(examine, data):
    code, found = await examine()
    assert code == 0
    assert {found[name]["state"] for name in ("versions", "folder", "installation", "canary", "postgresql")} == {"ok"}
    assert list(data.parent.iterdir()) == []


async def test_an_installation_in_use_is_asked_through_its_services_and_examined_when_it_is_free(examine, data):
    async with Embedded(data) as running:
        chart = Chart()
        transport = httpx.ASGITransport(app=running.app)
        await examine_services(chart, "http://embedded", transport=transport)
        assert [(f.check, f.state.value) for f in chart.findings] == [
            ("ingestor", "ok"),
            ("auditor", "ok"),
            ("reconciler", "ok"),
        ]
    code, found = await examine()
    assert code == 0, found
    assert found["postgresql"]["said"].endswith("migrated")
    assert [path for path in (data / "store").rglob("*") if CANARY_PREFIX.strip("/") in path.parts] == []


async def test_a_folder_that_another_process_works_in(examine, data):
    data.mkdir()
    bus = await SqliteBus.open(data / "bus.sqlite")
    try:
        code, found = await examine()
    finally:
        await bus.close()
    assert code == 1
    assert found["installation"]["state"] == "fail"
    assert "in use by another process" in found["installation"]["said"]
    assert "--data" in found["installation"]["mend"]
    assert found["canary"]["state"] == found["postgresql"]["state"] == "skipped"


@pytest.mark.parametrize(("name", "told"), [("bus.sqlite", "file is not a database"), ("store", "File exists")])
async def test_a_folder_with_something_else_in_it(examine, data, name, told):
    data.mkdir()
    (data / name).write_bytes(b"neither a database nor a folder" * 1000)
    code, found = await examine()
    assert code == 1
    assert told in found["installation"]["said"]
    assert "move the file away" in found["installation"]["mend"]


async def test_a_postgresql_that_does_not_start_is_told_with_its_log(examine, data):
    async with Embedded(data):
        pass
    (data / "pg" / "PG_VERSION").write_text("9\n")
    code, found = await examine()
    assert code == 1
    assert found["canary"]["state"] == "ok"
    assert found["postgresql"]["state"] == "fail"
    assert "does not come up" in found["postgresql"]["said"]
    assert str(data / "pg.log") in found["postgresql"]["mend"]


async def test_packages_that_do_not_belong_together(examine, monkeypatch):
    monkeypatch.setattr(embedded, "version", lambda name: "0.0.9" if name == "acequia-trainer" else "0.1.0")
    code, found = await examine()
    assert code == 1
    assert "acequia-trainer: 0.0.9" in found["versions"]["said"]
    assert "of one version" in found["versions"]["mend"]
