"""jobs/chain.yaml asks for what the command knows, where somebody answers."""

from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from typer.main import get_command

from acequia_cli.main import app
from harness.kustomize import Document
from unit.kubernetes.reading import environment, named

Composed = Callable[[str], list[Document]]


@pytest.fixture
def job(composed: Composed) -> Document:
    (job,) = composed("jobs")
    assert job["kind"] == "Job"
    return job


def test_its_arguments_are_the_commands_own(job: Document) -> None:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["image"].partition(":")[0] == "acequia-cli"
    command, arguments = get_command(app), list(container["args"])
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    parsed = command.make_context("chain", arguments).params
    told = environment([job], container)
    for value in parsed.values():
        if isinstance(value, str) and value.startswith("$("):
            assert value[2:-1] in told


def test_it_asks_a_service_that_is_there(job: Document, composed: Composed) -> None:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    url = urlsplit(environment([job], container)["ACEQUIA_URL"][1])
    service = named(composed("overlays/local"), "Service")[url.hostname]
    assert url.port in {port["port"] for port in service["spec"]["ports"]}
    assert job["metadata"]["namespace"] == service["metadata"]["namespace"]


def test_wrong_use_is_not_tried_again(job: Document) -> None:
    rules = job["spec"]["podFailurePolicy"]["rules"]
    failing = [rule["onExitCodes"] for rule in rules if rule["action"] == "FailJob"]
    assert [(codes["operator"], codes["values"]) for codes in failing] == [("In", [2])]
    names = {container["name"] for container in job["spec"]["template"]["spec"]["containers"]}
    assert {codes["containerName"] for codes in failing} <= names
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_it_goes_after_a_while_so_that_it_can_be_applied_again(job: Document) -> None:
    assert job["spec"]["ttlSecondsAfterFinished"] > 0
