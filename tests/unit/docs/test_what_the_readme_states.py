"""The README's tables say what the code says."""

import importlib
import json
import re
from typing import Any

import typer.main
from pydantic_settings import BaseSettings
from typer.core import TyperGroup

from acequia.layers import Buckets, Layer
from acequia_cli.main import app
from acequia_ingestor.api import IngestionRequest
from acequia_ingestor.formats import load_formats

from .conftest import ROOT, blocks, text_of

ROW = re.compile(r"^\| `([A-Z_]+)` \| (\*needed\*|`[^`]*`|) \| (.+) \|$", re.MULTILINE)


def readme_settings() -> dict[str, str]:
    """Each variable of the README's table with its default."""
    return {name: default.strip("`") for name, default, _ in ROW.findall(text_of("README.md"))}


def code_settings() -> dict[str, str]:
    """Each variable of a settings class with its default, as one would write it into the environment."""
    packages = ["acequia", *(f"acequia_{folder.name}" for folder in (ROOT / "services").iterdir() if folder.is_dir())]
    found: dict[str, str] = {}
    for package in packages:
        module = importlib.import_module(f"{package}.settings")
        for settings in vars(module).values():
            if not (isinstance(settings, type) and issubclass(settings, BaseSettings)):
                continue
            for name, field in settings.model_fields.items():
                variable = f"{settings.model_config['env_prefix']}{name}".upper()
                found[variable] = "*needed*" if field.is_required() else as_text(field.default)
    return found


def as_text(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case tuple():
            return ",".join(map(str, value))
        case _:
            return str(value)


def test_the_configuration_table_has_each_setting_with_its_default() -> None:
    table, code = readme_settings(), code_settings()
    assert {name: table.get(name) for name in code} == code


def test_the_configuration_table_and_env_example_name_the_same_variables() -> None:
    lines = (line.removeprefix("# ") for line in text_of(".env.example").splitlines())
    example = {name: value for name, _, value in (line.partition("=") for line in lines if re.match(r"[A-Z_]+=", line))}
    table = readme_settings()
    assert table.keys() == example.keys()
    assert {n: d for n, d in table.items() if d != "*needed*"} == {
        n: example[n] for n, d in table.items() if d != "*needed*"
    }


def commands(command: object, path: str = "acequia") -> set[str]:
    if isinstance(command, TyperGroup):
        own = {path} if command.invoke_without_command and path != "acequia" else set()
        return own | {name for key, sub in command.commands.items() for name in commands(sub, f"{path} {key}")}
    return {path}


def test_the_table_of_commands_has_each_command_and_no_other() -> None:
    listed = set(re.findall(r"^\| `(acequia [a-z ]+)` \|", text_of("README.md"), re.MULTILINE))
    assert listed == commands(typer.main.get_command(app))


def test_each_option_that_the_table_of_commands_names_is_one() -> None:
    root = typer.main.get_command(app)
    for path, told in re.findall(r"^\| `acequia ([a-z ]+)` \| (.*) \|$", text_of("README.md"), re.MULTILINE):
        command: Any = root
        for word in path.split():
            assert isinstance(command, TyperGroup)
            command = command.commands[word]
        there = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"`(--[a-z-]+)", told)) <= there, path


def test_the_table_of_layers_has_each_bucket() -> None:
    buckets = Buckets()
    for layer in Layer:
        assert f"| {layer.value.upper()} | `{buckets.of(layer)}` |" in text_of("README.md")


def test_the_table_of_formats_has_each_format() -> None:
    table = text_of("README.md").partition("## What it reads")[2].partition("\n## ")[0]
    first_cells = re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE)
    assert {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)} == set(load_formats())


def test_the_body_of_the_curl_example_is_a_request() -> None:
    (body,) = re.findall(r"-d '(.*)'", "".join(blocks("README.md", "bash")))
    assert IngestionRequest.model_validate(json.loads(body)).source.rows == 1000
