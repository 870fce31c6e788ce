"""Kubernetes' own resources against their schemas, strictly; test_operators.py has the others.

A patch of an overlay that is no whole resource is seen where it is applied.
"""

from collections.abc import Callable
from functools import cache

import kubernetes_validate
import pytest
from kubernetes_validate import utils

from harness.kustomize import Document, title
from unit.kubernetes.reading import ALL, is_an_operators

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
