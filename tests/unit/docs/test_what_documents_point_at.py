"""Links, paths, tests and targets that the documents name are there."""

import re
from pathlib import Path

import pytest

from acequia.layers import Buckets
from acequia.topology import topology

from .conftest import DOCUMENTS, ROOT, prose_of, text_of

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def headings(path: Path) -> set[str]:
    return {slug(match) for match in re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_link_leads_somewhere(path: Path) -> None:
    broken = []
    for link in LINK.findall(prose_of(path)):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in headings(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_of_the_repository_that_is_named_is_there(path: Path) -> None:
    tops = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".")}
    words = (word.partition("::")[0] for word in CODE.findall(prose_of(path)))
    named = {word for word in words if word.partition("/")[0] in tops and "/" in word}
    # the example stage and generated folders are not there
    missing = {
        word
        for word in named
        if not any(c in word for c in "<*{ ") and "masker" not in word and not (ROOT / word.rstrip("/")).exists()
    }
    assert missing - {"bench/results/"} == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_test_that_is_named_exists(path: Path) -> None:
    there = {name for file in ROOT.glob("tests/**/*.py") for name in re.findall(r"def (test_\w+)", file.read_text())}
    files = {file.name for file in ROOT.glob("tests/**/*.py")}
    named = {word for word in CODE.findall(prose_of(path)) if re.fullmatch(r"test_\w+(\.py)?", word)}
    assert named - there - files == set()


def test_every_target_of_make_that_is_named_is_there() -> None:
    there = set(re.findall(r"^([a-z0-9-]+):", text_of("Makefile"), re.MULTILINE))
    named = {
        match for path in DOCUMENTS for match in re.findall(r"(?:^|`)make ([a-z0-9-]+)", path.read_text(), re.MULTILINE)
    }
    assert {"demo", "test"} <= named
    assert named - there == set()


def test_the_architecture_names_every_queue_and_binding() -> None:
    page = text_of("ARCHITECTURE.md")
    table = topology(Buckets())
    for queue in table.queues:
        if queue.dead is not None:
            row = next(line for line in page.splitlines() if line.startswith(f"| `{queue.name}` |"))
            for binding in table.bindings:
                if binding.queue == queue.name:
                    assert f"`{binding.exchange}` / `{binding.routing_key}`" in row
    for delay in table.queues[0].retry_delays:
        assert f".{delay}s`" in page


def test_every_decision_is_listed() -> None:
    listed = set(LINK.findall(text_of("docs/decisions/README.md")))
    assert listed == {path.name for path in (ROOT / "docs/decisions").glob("0*.md")}


def test_no_document_names_a_folder_of_somebodys_machine() -> None:
    for path in DOCUMENTS:
        assert re.findall(r"(?<![\w.:])/(?:root|home|work|tmp|Users)/\S*", path.read_text()) == [], path.name
