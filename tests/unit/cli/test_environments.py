"""Environments of the settings file: found, filled in, refused, shown."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from acequia_cli.complaints import WrongUse
from acequia_cli.connection import Where
from acequia_cli.main import app
from acequia_cli.profiles import Profile, read_file, resolve

from .conftest import Server

ROOT = Path(__file__).resolve().parents[3]
STORE = """
[env.prod]
MINIO_ENDPOINT = "s3.example.org"
MINIO_SECURE = true
MINIO_ACCESS_KEY = "${OURS_KEY}"
MINIO_SECRET_KEY = "file:secret"
ACEQUIA_SOURCE_POSTGRES_DSN = "postgresql://reader:${OURS_PASSWORD}@db.example.org/crm"
ACEQUIA_SOURCE_POSTGRES_BILLING_DSN = "postgresql://reader@billing.example.org/b"
ACEQUIA_RETRY_DELAYS = [1, 5]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory, and an environment that is as before when the test ends."""
    before = dict(os.environ)
    for name in ("ACEQUIA_URL", "ACEQUIA_CONFIG", "MINIO_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    os.environ.clear()
    os.environ.update(before)


def acequia(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_local_is_there_without_a_file():
    assert resolve("local") == Profile("local")
    assert Where(Path("here"), "http://a", "local").resolved() == Where(Path("here"), "http://a")


def test_another_environment_without_a_file_is_what_the_process_is_told(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(WrongUse, match=r"there is no acequia\.toml .* neither ACEQUIA_URL nor MINIO_ENDPOINT is set"):
        resolve("prod")

    monkeypatch.setenv("MINIO_ENDPOINT", "s3.example.org")
    assert resolve("prod").store

    monkeypatch.setenv("ACEQUIA_URL", "http://acequia.example.org")
    assert resolve("prod") == Profile("prod", url="http://acequia.example.org")


def test_references_are_filled_in_and_take_effect(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "acequia.toml").write_text(STORE)
    (folder / "secret").write_text("s3cret\n")
    monkeypatch.setenv("OURS_KEY", "key")
    monkeypatch.setenv("OURS_PASSWORD", "pass")
    monkeypatch.setenv("MINIO_ENDPOINT", "localhost:9000")

    profile = resolve("prod")
    profile.take_effect()

    assert profile.store and profile.url is None and profile.data is None
    assert os.environ["MINIO_ENDPOINT"] == "s3.example.org", "the environment that was named comes first"
    assert os.environ["MINIO_SECURE"] == "true"
    assert os.environ["MINIO_ACCESS_KEY"] == "key"
    assert os.environ["MINIO_SECRET_KEY"] == "s3cret"
    assert os.environ["ACEQUIA_SOURCE_POSTGRES_DSN"] == "postgresql://reader:pass@db.example.org/crm"
    assert os.environ["ACEQUIA_RETRY_DELAYS"] == "1,5"


def test_a_running_installation_and_a_folder_beside_the_file(folder: Path):
    (folder / "elsewhere").mkdir()
    file = folder / "elsewhere" / "ours.toml"
    file.write_text('[env.dev]\nurl = "http://dev.example.org"\n[env.local]\ndata = "here"\n')

    assert resolve("dev", file) == Profile("dev", url="http://dev.example.org")
    assert resolve("local", file).data == folder / "elsewhere" / "here"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[env.prod]\nMINIO_ENDPIONT = "x"',
            r"\[env\.prod\]: unknown key 'MINIO_ENDPIONT', did you mean 'MINIO_ENDPOINT'",
        ),
        ('[env.prod]\nURL = "x"', r"unknown key 'URL', did you mean 'url'"),
        ('[environment.prod]\nurl = "x"', r"unknown key 'environment': an environment begins with \[env\.NAME\]"),
        ('[env.prod]\nurl = "http://x"\ndata = "y"', "choose one"),
        ("[env.prod]\nurl = 3", "url is a text"),
        ("[env.prod]\nMINIO_SECURE = true", "neither url .* nor data .* nor MINIO_ENDPOINT"),
        ("[env]\nprod = 3", r"begin it with \[env\.prod\]"),
        ('[env.prod\nurl = "x"', "is no TOML"),
        ('[env.prd]\nurl = "x"', r"has no environment 'prod', did you mean 'prd'\? There is: prd, local"),
        ('[env.prod]\nMINIO_ENDPOINT = "${NOT_SET}"', r"MINIO_ENDPOINT refers to \$\{NOT_SET\}, which is not set"),
        ('[env.prod]\nMINIO_ENDPOINT = "file:nowhere"', "which can't be read: No such file"),
    ],
)
def test_what_is_wrong_in_the_file_is_said_in_one_line(folder: Path, text: str, said: str):
    (folder / "acequia.toml").write_text(text)

    with pytest.raises(WrongUse, match=said):
        resolve("prod")


def test_a_named_file_has_to_be_there():
    with pytest.raises(WrongUse, match=r"nowhere\.toml: no such file"):
        resolve("local", Path("nowhere.toml"))


def test_a_command_talks_to_the_installation_of_its_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch, connected: Server
):
    (folder / "acequia.toml").write_text('[env.dev]\nurl = "http://dev.example.org"\n')
    connected.lay("GET", "/runs", {"runs": [], "next": None})

    assert acequia("runs", "--env", "dev").exit_code == 0
    assert acequia("runs", "--env", "prod").exit_code == 2
    assert len(connected.asked) == 1


def test_an_environment_that_is_a_store_alone_is_for_tables(folder: Path):
    (folder / "acequia.toml").write_text('[env.prod]\nMINIO_ENDPOINT = "s3.example.org"\n')

    result = acequia("runs", "--env", "prod", "--json")

    assert result.exit_code == 2
    assert "`acequia ingest tables` works on by itself" in json.loads(result.stdout)["error"]


def test_what_is_shown_of_an_environment_has_no_secret(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "acequia.toml").write_text(STORE)
    (folder / "secret").write_text("s3cret")
    monkeypatch.setenv("OURS_KEY", "key")
    monkeypatch.setenv("OURS_PASSWORD", "pass")

    result = acequia("config", "show", "--env", "prod")

    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["MINIO_ACCESS_KEY", "key", "${OURS_KEY}"] in lines
    assert ["MINIO_SECRET_KEY", "********", "file:secret"] in lines
    assert ["ACEQUIA_SOURCE_POSTGRES_DSN", "********", "${OURS_PASSWORD}"] in lines
    assert ["ACEQUIA_SOURCE_POSTGRES_BILLING_DSN", "********", "file"] in lines
    assert "s3cret" not in result.stdout and "reader" not in result.stdout


def test_a_password_in_an_address_is_not_shown_either(folder: Path):
    (folder / "acequia.toml").write_text('[env.dev]\nurl = "https://team:quiet@acequia.example.org:8000"\n')
    for asked in (("--env", "dev"), ("--env", "dev", "--json")):
        shown = acequia("config", "show", *asked).output
        assert "https://team:********@acequia.example.org:8000" in shown
        assert "quiet" not in shown


def test_a_list_may_refer_to_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "acequia.toml").write_text(
        '[env.dev]\ndata = "here"\nACEQUIA_SCHEDULES = ["${OURS_SCHEDULE}", "network_daily"]\n'
    )
    with pytest.raises(WrongUse, match=r"ACEQUIA_SCHEDULES refers to \$\{OURS_SCHEDULE\}, which is not set"):
        resolve("dev")
    assert "OURS_SCHEDULE" in acequia("config", "show", "--env", "dev").output
    monkeypatch.setenv("OURS_SCHEDULE", "subscriptions_daily")
    assert resolve("dev").settings == {"ACEQUIA_SCHEDULES": "subscriptions_daily,network_daily"}


def test_what_an_environment_lacks_is_shown_beside_the_rest(folder: Path):
    (folder / "acequia.toml").write_text(STORE)

    result = acequia("config", "show", "--env", "prod", "--json")

    assert result.exit_code == 2
    told = {entry["key"]: entry for entry in json.loads(result.stdout)["settings"]}
    assert "${OURS_KEY}, which is not set" in told["MINIO_ACCESS_KEY"]["problem"]
    assert told["MINIO_ENDPOINT"]["value"] == "s3.example.org"


def test_the_example_of_the_settings_file_is_one(monkeypatch: pytest.MonkeyPatch):
    profiles = read_file(ROOT / "acequia.example.toml")

    assert {"local", "dev", "prod"} <= profiles.keys()
