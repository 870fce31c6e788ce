"""compose.yaml read as text: what Docker would not complain about, and a user would."""

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from acequia.layers import Buckets
from acequia.settings import AcequiaSettings, PostgresSettings
from acequia.topology import OBJECTS, topology
from acequia_auditor.settings import MigrationSettings
from acequia_lakehouse.settings import OwnerSettings
from harness import docker
from harness.variables import DECIDED_BY_THE_IMAGE, OF_OWNERS, SERVICES, variables, variables_of_service

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "compose.yaml").read_text()
COMPOSE = yaml.safe_load(TEXT)
OURS = [pytest.param(COMPOSE["services"].get(name, {}), id=name) for name in SERVICES]
SECRETS = {
    "MINIO_SECRET_KEY",
    "RABBITMQ_PASSWORD",
    "PG_PASSWORD",
    "PG_MIGRATION_PASSWORD",
    "ACEQUIA_LAKEHOUSE_PASSWORD",
}
FOR_COMPOSE_ONLY = {
    "RABBITMQ_USER",
    "RABBITMQ_PASSWORD",
    "ACEQUIA_PORT",
    "ACEQUIA_AUDITOR_PORT",
    "ACEQUIA_IMAGES",
    "ACEQUIA_LAKEHOUSE_PASSWORD",
    "ACEQUIA_TAG",
    "MINIO_IMAGE",
    "MINIO_PORT",
    "MINIO_CONSOLE_PORT",
    "RABBITMQ_MANAGEMENT_PORT",
}


def named_in_env_example() -> set[str]:
    return set(re.findall(r"(?m)^(?:# )?([A-Z][A-Z0-9_]+)=", (ROOT / ".env.example").read_text()))


def test_every_service_of_the_workspace_is_there():
    assert set(SERVICES) <= set(COMPOSE["services"])


@pytest.mark.parametrize("service", OURS)
def test_a_service_runs_without_root_without_capabilities_and_writes_only_to_volumes(service):
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert "no-new-privileges:true" in service["security_opt"]


@pytest.mark.parametrize("service", OURS)
def test_a_service_waits_for_healthy_servers_and_is_healthy_when_it_is_ready(service):
    waits_for = {name: condition["condition"] for name, condition in service["depends_on"].items()}
    assert {"minio", "rabbitmq"} <= set(waits_for)
    for preparation in ("migrate", "prepare-lakehouse"):
        assert waits_for.pop(preparation, "service_completed_successfully") == "service_completed_successfully"
    assert set(waits_for.values()) == {"service_healthy"}
    assert "/ready" in " ".join(service["healthcheck"]["test"])


@pytest.mark.parametrize("service", OURS)
def test_a_killed_service_comes_back_and_a_stopped_one_may_finish_its_work(service):
    assert service["restart"] == "unless-stopped"
    seconds = int(service["stop_grace_period"].removesuffix("s"))
    assert seconds > AcequiaSettings.model_fields["stop_grace"].default


@pytest.mark.parametrize("service", OURS)
def test_large_temporary_files_lie_on_a_volume_not_in_memory(service):
    folder = re.search(r"ACEQUIA_TEMP_DIR=(\S+)", (ROOT / "Dockerfile").read_text())[1]
    mounts = [entry.split(":") for entry in service["volumes"]]
    volume = next(name for name, place, *_ in mounts if place == folder)
    assert volume in COMPOSE["volumes"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_takes_each_of_its_settings_from_env_and_none_that_it_does_not_know(name):
    given = set(COMPOSE["services"][name]["environment"])
    assert given == variables_of_service(name) - DECIDED_BY_THE_IMAGE - OF_OWNERS


def test_only_the_auditor_knows_the_database_and_reaches_it():
    services = COMPOSE["services"]
    knows = {n for n, s in services.items() if any(str(key).startswith("PG_") for key in s.get("environment", ()))}
    reaches = {n for n, s in services.items() if "audit" in s.get("networks", ())}
    of_the_lake = {n for n, s in services.items() if "catalog" in s.get("networks", ())}
    assert knows == {"auditor", "migrate"}
    assert reaches == {"auditor", "migrate", "postgres"}
    assert of_the_lake == {"lakehouse", "prepare-lakehouse", "postgres"}
    assert COMPOSE["networks"]["audit"]["internal"] is True
    assert COMPOSE["networks"]["catalog"]["internal"] is True


def test_the_auditor_does_not_know_the_role_that_may_change_the_audit_trail():
    auditor, migrate = (COMPOSE["services"][name] for name in ("auditor", "migrate"))
    assert not any(name.startswith("PG_MIGRATION_") for name in auditor["environment"])
    assert set(migrate["environment"]) == {
        *variables(PostgresSettings),
        *variables(MigrationSettings),
        "ACEQUIA_LOG_LEVEL",
    }
    assert migrate["environment"]["PG_USER"] == auditor["environment"]["PG_USER"]
    assert (
        COMPOSE["services"]["postgres"]["environment"]["POSTGRES_USER"] == migrate["environment"]["PG_MIGRATION_USER"]
    )
    assert auditor["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert (migrate["image"], migrate["command"]) == (auditor["image"], ["migrate"])


def test_the_lakehouse_works_by_a_role_that_another_one_makes():
    lakehouse, prepare = (COMPOSE["services"][name] for name in ("lakehouse", "prepare-lakehouse"))
    assert not set(lakehouse["environment"]) & variables(OwnerSettings)
    assert variables(OwnerSettings) <= set(prepare["environment"])
    assert (
        prepare["environment"]["ACEQUIA_LAKEHOUSE_CATALOG_URI"]
        == (lakehouse["environment"]["ACEQUIA_LAKEHOUSE_CATALOG_URI"])
    )
    assert lakehouse["depends_on"]["prepare-lakehouse"] == {"condition": "service_completed_successfully"}
    assert (prepare["image"], prepare["command"]) == (lakehouse["image"], ["prepare"])


def test_no_secret_stands_in_the_file():
    secret = re.compile(r"PASS|SECRET|URL")
    for name, service in COMPOSE["services"].items():
        for key, value in service.get("environment", {}).items():
            if secret.search(key) and not value.startswith("http://"):
                assert "${" in value, f"{name}: {key}"
    # a secret has no default: without it compose stops and says what to do
    references = re.findall(
        r"\$\{(MINIO_SECRET_KEY|RABBITMQ_PASSWORD|PG_PASSWORD|PG_MIGRATION_PASSWORD|ACEQUIA_LAKEHOUSE_PASSWORD)([^}]*)\}",
        TEXT,
    )
    assert {name for name, _ in references} == SECRETS
    assert all(rest.startswith(":?") and "make env" in rest for _, rest in references)


def test_ports_are_published_on_this_machine_only_and_can_be_moved():
    published = [port for service in COMPOSE["services"].values() for port in service.get("ports", ())]
    assert len(published) >= 5
    for port in published:
        assert re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z_]+:-\d+\}:\d+", port)


def test_minio_tells_the_broker_of_each_layer_as_the_topology_says():
    environment = COMPOSE["services"]["minio"]["environment"]
    table = topology(Buckets())
    exchange = next(exchange for exchange in table.exchanges if exchange.name == OBJECTS)
    expected = {}
    for notification in table.notifications:
        target = {
            "ENABLE": "on",
            "EXCHANGE": exchange.name,
            "EXCHANGE_TYPE": exchange.type,
            "ROUTING_KEY": notification.routing_key,
            "DURABLE": "on",
            "DELIVERY_MODE": "2",
            "MANDATORY": "off",
            "PUBLISHING_CONFIRMS": "on",
        }
        expected |= {f"MINIO_NOTIFY_AMQP_{key}_{notification.target}": value for key, value in target.items()}
    targets = {key: value for key, value in environment.items() if key.startswith("MINIO_NOTIFY_AMQP_")}
    urls = {key: targets.pop(key) for key in list(targets) if key.startswith("MINIO_NOTIFY_AMQP_URL_")}
    assert targets == expected
    assert {key.rpartition("_")[2] for key in urls} == {n.target for n in table.notifications}
    assert set(urls.values()) == {COMPOSE["services"]["ingestor"]["environment"]["RABBITMQ_URL"]}
    assert environment["MINIO_API_SYNC_EVENTS"] == "on"
    assert not any("QUEUE_DIR" in key for key in environment)


def test_every_volume_that_is_mounted_is_declared_and_the_other_way_round():
    mounted = {
        entry.partition(":")[0] for service in COMPOSE["services"].values() for entry in service.get("volumes", ())
    }
    assert mounted == set(COMPOSE["volumes"])


def test_env_example_names_every_variable_of_compose_and_no_unknown_one():
    read_by_compose = set(re.findall(r"\$\{([A-Z0-9_]+)", TEXT))
    known = variables(PostgresSettings).union(*(variables_of_service(name) for name in SERVICES))
    assert read_by_compose - named_in_env_example() == set()
    assert read_by_compose - known == FOR_COMPOSE_ONLY
    assert named_in_env_example() - known == FOR_COMPOSE_ONLY


# what Docker Compose itself makes of it


@pytest.fixture
def compose() -> None:
    """Docker Compose v2, or a loud skip (ACEQUIA_REQUIRE_COMPOSE=1: a failure)."""
    docker.need("NOT TESTED: compose.yaml was not read by `docker compose config`", docker.CLIENT)


def compose_config(folder: Path, env: str | None) -> subprocess.CompletedProcess[str]:
    shutil.copy(ROOT / "compose.yaml", folder)
    if env is not None:
        (folder / ".env").write_text(env)
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_HOST") if name in os.environ}
    command = ["docker", "compose", "config", "--format", "json"]
    return subprocess.run(command, cwd=folder, env=kept, check=False, capture_output=True, text=True)


@pytest.mark.usefixtures("compose")
@pytest.mark.parametrize("missing", sorted(SECRETS))
def test_without_a_password_compose_stops_with_a_line_that_says_what_to_do(tmp_path, missing):
    lines = [f"{name}=a" for name in SECRETS]
    ended = compose_config(tmp_path, "\n".join(line for line in lines if not line.startswith(missing)))
    assert ended.returncode != 0
    assert missing in ended.stderr
    assert "make env" in ended.stderr


@pytest.mark.usefixtures("compose")
def test_without_env_compose_stops_with_a_line_that_says_what_to_do(tmp_path):
    ended = compose_config(tmp_path, None)
    assert ended.returncode != 0
    assert "run `make env` first" in ended.stderr


@pytest.mark.usefixtures("compose")
def test_with_what_make_env_writes_compose_is_satisfied_and_settings_of_env_reach_their_service(tmp_path):
    make_env = importlib.util.spec_from_file_location("make_env_for_compose", ROOT / "deploy/native/make_env.py")
    module = importlib.util.module_from_spec(make_env)
    make_env.loader.exec_module(module)
    module.main(tmp_path / ".env")
    written = (tmp_path / ".env").read_text()
    (tmp_path / ".env").chmod(0o600)
    ended = compose_config(tmp_path, f"{written}\nACEQUIA_TRAINER_GATHER_QUIET=0\n")
    assert ended.returncode == 0, ended.stderr
    services = yaml.safe_load(ended.stdout)["services"]
    assert services["trainer"]["environment"]["ACEQUIA_TRAINER_GATHER_QUIET"] == "0"
    assert services["trainer"]["environment"].get("ACEQUIA_TRAINER_SEED") is None
    assert "ACEQUIA_TRAINER_GATHER_QUIET" not in services["ingestor"]["environment"]
