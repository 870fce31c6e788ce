"""How operators' definitions are had: once from Go's module proxy, then from the cache, or from a folder."""

import json
from collections.abc import Callable
from pathlib import Path

import parts
import pytest
import yaml

from . import definitions

KIND = "water.example/v1 Ditch"
SPEC = {"type": "object", "properties": {"depth": {"type": "integer"}}}


def crd(spec: object = SPEC) -> str:
    fields = {name: {"type": "string"} for name in ("apiVersion", "kind")} | {"metadata": {"type": "object"}}
    schema = {"type": "object", "properties": {**fields, "spec": spec}}
    versions = [
        {"name": "v1", "served": True, "schema": {"openAPIV3Schema": schema}},
        {"name": "v0", "served": False, "schema": {"openAPIV3Schema": schema}},
    ]
    names = {"group": "water.example", "names": {"kind": "Ditch"}, "versions": versions}
    return yaml.safe_dump({"kind": "CustomResourceDefinition", "spec": names})


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> definitions.Operator:
    made = definitions.Operator("https://water.example", "example.org/water/ditch", "v1.2.3", "config/crd", (KIND,))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ACEQUIA_CRDS", raising=False)
    monkeypatch.setattr(definitions, "FETCHED", {KIND: made})
    return made


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """A Go that says a text, notes what it was asked for and ends with a code."""

    def say(text: str, code: int) -> None:
        (tmp_path / "text").write_text(text)
        program = tmp_path / "go"
        program.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\ncat {tmp_path}/text\nexit {code}\n')
        program.chmod(0o755)
        monkeypatch.setattr(parts, "find_go", lambda: str(program))

    return say


def test_they_are_fetched_once(
    operator: definitions.Operator, go: Callable[[str, int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module/config/crd").mkdir(parents=True)
    (tmp_path / "module/config/crd/water.example_ditchs.yaml").write_text(crd())
    (tmp_path / "module/config/crd/water.example_others.yaml").write_text("others: 1")
    go(json.dumps({"Dir": str(tmp_path / "module")}), 0)
    assert definitions.schema(KIND)["properties"]["spec"]["additionalProperties"] is False
    assert (tmp_path / "asked").read_text() == "mod download -json example.org/water/ditch@v1.2.3\n"
    monkeypatch.setattr(parts, "find_go", lambda: None)
    assert definitions.fetch(operator) == tmp_path / "cache/acequia/ditch-v1.2.3"
    assert [path.name for path in operator.cached.iterdir()] == ["water.example_ditchs.yaml"]


def test_without_go_it_is_said_what_to_install(operator: definitions.Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "find_go", lambda: None)
    with pytest.raises(parts.PartMissing, match="install Go"):
        definitions.fetch(operator)
    assert not operator.cached.exists()


def test_what_go_says_of_a_failure_is_passed_on(operator: definitions.Operator, go: Callable[[str, int], None]) -> None:
    go(json.dumps({"Error": "reading https://proxy.example: no such host"}), 1)
    with pytest.raises(parts.PartMissing, match=r"module proxy.*no such host"):
        definitions.fetch(operator)
    go("", 1)
    with pytest.raises(parts.PartMissing, match="no output"):
        definitions.fetch(operator)


@pytest.mark.usefixtures("operator")
def test_a_folders_definition_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mine/deeper"
    folder.mkdir(parents=True)
    (folder / "all.yaml").write_text(f"kind: Namespace\n---\n{crd({'type': 'object', 'properties': {}})}")
    monkeypatch.setenv("ACEQUIA_CRDS", str(tmp_path / "mine"))
    monkeypatch.setattr(parts, "find_go", lambda: None)
    assert definitions.schema(KIND)["properties"]["spec"]["properties"] == {}
    with pytest.raises(parts.PartMissing, match=r"water\.example/v0 Ditch is not fetched"):
        definitions.schema("water.example/v0 Ditch")
