"""What docs/migrating.md tells people to type is there."""

import ast
import re
import shlex
from typing import Any

import pytest
import typer.main
from typer.core import TyperGroup

from acequia.datasets import Schedule, load_registry
from acequia_cli.ingestion_events import KNOWN_AS
from acequia_cli.main import app

from .conftest import blocks, text_of

PAGE = "docs/migrating.md"


def typed() -> list[str]:
    """Each `acequia ...` of the page, in its blocks and its sentences."""
    shell = [line for language in ("bash", "") for block in blocks(PAGE, language) for line in block.splitlines()]
    lines = [line[line.find("acequia ") :] for line in shell if re.match(r"\s*(?:[\d*]+ [\d* ]+)?acequia ", line)]
    spoken = re.findall(r"`(acequia [^`]+)`", text_of(PAGE))
    return sorted({line for line in [*lines, *spoken] if line.startswith("acequia ")})


@pytest.mark.parametrize("line", typed())
def test_a_command_has_the_options_that_it_is_called_with(line: str) -> None:
    words, command = shlex.split(line)[1:], typer.main.get_command(app)
    while words and isinstance(command, TyperGroup) and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    assert not isinstance(command, TyperGroup) or command.invoke_without_command, line
    there = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= there


def test_each_flag_that_is_named_is_one() -> None:
    def options(command: Any) -> set[str]:
        if isinstance(command, TyperGroup):
            return {option for sub in command.commands.values() for option in options(sub)}
        return {option for parameter in command.params for option in parameter.opts}

    named = set(re.findall(r"`(--[a-z-]+)", text_of(PAGE)))
    assert named <= options(typer.main.get_command(app))


def test_python_of_the_page_is_python() -> None:
    found = blocks(PAGE, "python")
    assert len(found) == 4
    for block in found:
        ast.parse(block)


def test_the_schedule_of_the_page_is_the_one_that_ships() -> None:
    (said,) = (block for block in blocks(PAGE, "python") if block.startswith("DATASET = Dataset("))
    shipped = load_registry()["network_events"].schedules
    value = said.partition("schedules=")[2].rpartition(")")[0].rstrip().rstrip(",")
    assert eval(value, {"Schedule": Schedule}) == shipped


def test_the_table_of_columns_names_columns_that_are_known() -> None:
    for what, columns in re.findall(r"^  \| `(\w+)`(?:, `\w+`)? \| ([^|]+) \|", text_of(PAGE), re.MULTILINE):
        known = {name for names in KNOWN_AS.values() for name in names}
        said = {name for name in re.split(r"[,;] ", columns.strip()) if name != "..."}
        assert said <= known, what
