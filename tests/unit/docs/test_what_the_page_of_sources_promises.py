"""Each row of the feature tables of docs/sources.md names a test, as path::name, that is there."""

import ast
import re
from collections.abc import Iterator

import pytest

from .conftest import ROOT, prose_of

PAGE = ROOT / "docs" / "sources.md"
HEAD = ("feature", "how", "test")
CELL = re.compile(r"(?<!\\)\|")


def rows() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each row of a feature table, with the heading it stands under."""
    heading, inside = "", False
    for line in prose_of(PAGE).splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        cells = tuple(cell.strip() for cell in CELL.split(line)[1:-1]) if line.startswith("|") else ()
        if not cells:
            inside = False
        elif tuple(cell.lower() for cell in cells) == HEAD:
            inside = True
        elif inside and set("".join(cells)) - set(":-"):
            yield heading, cells


def those_in(path: str) -> set[str]:
    """The tests of a file, by `name` or `Class::name`."""
    found = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            inside = (n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
            found.update(f"{node.name}::{n.name}" for n in inside)
    return {name for name in found if name.rpartition("::")[2].startswith("test_")}


@pytest.mark.parametrize("row", [pytest.param(r, id=f"{r[0]}: {r[1][0]}"[:80]) for r in rows()])
def test_a_feature_names_a_test_that_is_there(row: tuple[str, tuple[str, ...]]) -> None:
    heading, cells = row
    assert len(cells) == len(HEAD), f"{heading}: a row has {len(cells)} cells: {cells}"
    feature, how, named = cells
    assert feature
    assert how
    tests = re.findall(r"`([^`]+)`", named) or re.findall(r"tests/[^\s,]+", named)
    assert tests, f"{heading}: {feature} names no test"
    for test in tests:
        path, _, name = test.partition("::")
        assert path.startswith("tests/"), f"{test}: path::name is asked for"
        assert (ROOT / path).is_file(), f"{test}: there is no such file"
        assert name.partition("[")[0] in those_in(path), f"{test}: there is no such test"


def test_every_section_has_a_table_of_its_features() -> None:
    sections = re.findall(r"^## (.*)$", prose_of(PAGE), re.MULTILINE)
    with_table = r"^## ([^\n]*)\n(?:(?!^## ).)*?^\| feature \| how \| test \|$"
    tables = re.findall(with_table, prose_of(PAGE), re.MULTILINE | re.DOTALL)
    assert sections
    assert tables == sections
