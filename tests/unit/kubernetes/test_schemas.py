"""Every resource against its schema, strictly: Kubernetes' own by kubernetes-validate, operators' by operators.json.

A patch of an overlay that is no whole resource is seen where it is applied.
"""

import json
from collections.abc import Callable
from functools import cache

import jsonschema
import kubernetes_validate
import pytest
from kubernetes_validate import utils

from harness.kustomize import Document, title
from unit.kubernetes.of_operators import SCHEMAS, Unknown, is_an_operators, kind_of, pruned
from unit.kubernetes.reading import ALL

Composed = Callable[[str], list[Document]]
VERSIONS = ("1.30", "1.34")
"""The oldest that has all that is used (a `sleep` before a stop), and the one that it was tried on."""


@pytest.fixture(scope="module", autouse=True)
def read_once() -> object:
    """It would read all definitions again for each resource."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", cache(utils.schema_contents))
        yield


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", ALL)
def test_kubernetes_knows_every_field(composed: Composed, folder: str, version: str) -> None:
    documents = [document for document in composed(folder) if not is_an_operators(document)]
    assert documents
    for document in documents:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except utils.ValidationError as error:
            wrong = f"{title(document)}: {'.'.join(map(str, error.path))}: {error.message}"
        else:
            wrong = None
        assert wrong is None


@pytest.mark.parametrize("folder", ALL)
def test_the_operators_know_every_field(composed: Composed, folder: str) -> None:
    schemas = json.loads(SCHEMAS.read_text())
    for document in composed(folder):
        if is_an_operators(document):
            assert kind_of(document) in schemas, f"make operators.json anew (of_operators.py): {title(document)}"
            for error in jsonschema.Draft202012Validator(schemas[kind_of(document)]).iter_errors(document):
                where = ".".join(map(str, error.path))
                pytest.fail(
                    f"{title(document)}: {where}: {error.message}. If the operator knows it, make operators.json anew"
                )


def test_a_field_that_a_definition_does_not_know_is_told() -> None:
    definition = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"replicas": {}}}}}
    with pytest.raises(Unknown, match=r"Kind\.spec: replica$"):
        pruned(definition, [{"spec": {"replica": 3}}], "Kind")


def test_a_schema_that_was_cut_forbids_what_was_not_used() -> None:
    definition = {
        "type": "object",
        "properties": {
            "a": {"type": "integer"},
            "b": {"type": "string"},
            "c": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["a"],
    }
    cut = jsonschema.Draft202012Validator(pruned(definition, [{"a": 1, "c": ["x"]}], "Kind"))
    assert cut.is_valid({"a": 2, "c": []})
    for wrong in ({"c": ["x"]}, {"a": "2"}, {"a": 2, "b": "x"}, {"a": 2, "c": [1]}):
        assert not cut.is_valid(wrong), wrong
