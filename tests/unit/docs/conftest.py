"""The documents: every Markdown file of the repository but what tools fetched."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def blocks(name: str, language: str) -> list[str]:
    """The fenced code blocks of a document."""
    return [body for lang, body in _FENCE.findall(text_of(name)) if lang == language]


def prose_of(path: Path) -> str:
    """A document without its code blocks."""
    return _FENCE.sub("", path.read_text())
