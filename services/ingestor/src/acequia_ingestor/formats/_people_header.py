"""Where the header of a CSV file that people made stands, and which of its columns are ours."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from acequia.datasets import Dataset
from acequia.errors import RejectedInput
from acequia_ingestor.formats._lines import few_enough
from acequia_ingestor.formats._people_records import Quotes

SEPARATORS = (",", ";", "\t", "|")
SEARCHED_LINES = 30
"""The header is among the first so many lines; what stands above it is a title."""
_TOLD = re.compile(r'^"?sep=(.)"?[,;|\t]*$', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a file: `lines[first .. last]`, from 0."""

    first: int
    last: int
    text: str
    separator: str
    names: tuple[str, ...]
    """As they are written, without those at the end that are empty."""
    places: Mapping[str, int]
    """Canonical column: its place among `names`."""
    clocks: Mapping[str, int]
    """Canonical column: the place of the column that its time of day stands in."""

    def missing(self, dataset: Dataset) -> list[str]:
        return [name for name in dataset.required if name not in self.places]

    def ignored(self) -> list[str]:
        """Names that mean nothing to the dataset."""
        ours = {*self.places.values(), *self.clocks.values()}
        return [name.strip() for n, name in enumerate(self.names) if n not in ours and name.strip()]


def fold(name: str) -> str:
    """What is compared of a column's name: letters and digits, without case and accents."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return re.sub(r"[^a-z0-9%]+", " ", plain.casefold()).strip()


def known_names(dataset: Dataset) -> Mapping[str, str]:
    """Each spelling of a column, folded: its canonical name."""
    return _known_names(tuple((name, *dataset.spellings.get(name, ())) for name in dataset.schema))


def known_clocks(dataset: Dataset) -> Mapping[str, str]:
    """The same of the columns that a time of day stands in, if it stands alone."""
    return {fold(spelling): column for column, several in dataset.clocks.items() for spelling in several}


@lru_cache
def _known_names(spellings: tuple[tuple[str, ...], ...]) -> Mapping[str, str]:
    return {fold(spelling): column for column, *others in spellings for spelling in (column, *others)}


def find_header(lines: Sequence[str], dataset: Dataset, separator: str | None = None) -> Header | None:
    """The line, and the separator, by which most columns are known, required ones first; None where there are none.

    `separator`: the one that was asked for; else a line `sep=;` says it, as some programs write, or the header does.
    """
    lines = lines[: SEARCHED_LINES + 10]
    separators: Sequence[str] = (separator,) if separator else SEPARATORS
    if separator is None and lines and (told := _TOLD.match(lines[0])) and told[1] in SEPARATORS:
        separators = (told[1],)
    best: tuple[tuple[int, int], Header] | None = None
    for candidate in separators:
        quotes = Quotes(candidate)
        for first in range(min(len(lines), SEARCHED_LINES)):
            if not lines[first].strip() or (record := quotes.fields(lines[first:])) is None:
                continue
            header = _header(lines, first, record, candidate, dataset)
            rank = (len(dataset.required) - len(header.missing(dataset)), len(header.places))
            if rank[1] and (best is None or rank > best[0]):
                best = rank, header
    return best[1] if best else None


def _header(
    lines: Sequence[str], first: int, record: tuple[Sequence[str], int], separator: str, dataset: Dataset
) -> Header:
    names, height = list(record[0]), record[1]
    while names and not names[-1].strip():
        names.pop()
    known, known_as_clocks = known_names(dataset), known_clocks(dataset)
    places: dict[str, int] = {}
    clocks: dict[str, int] = {}
    for n, name in enumerate(names):
        if (column := known.get(folded := fold(name))) is not None:
            places.setdefault(column, n)
        elif (column := known_as_clocks.get(folded)) is not None:
            clocks.setdefault(column, n)
    clocks = {column: n for column, n in clocks.items() if column in places}
    text = "\n".join(lines[first : first + height])
    return Header(first, first + height - 1, text, separator, tuple(names), places, clocks)


def check_header(header: Header, dataset: Dataset) -> None:
    """RejectedInput: `missing_columns`, `duplicate_columns`, `too_many_columns`."""
    few_enough(header.names)
    if missing := header.missing(dataset):
        wanted = ", ".join(f"{name} ({' / '.join(dataset.spellings.get(name, ())[:3]) or name})" for name in missing)
        raise RejectedInput(
            "missing_columns", f"the header lacks {wanted}; it has {', '.join(header.names)[:500]}", columns=missing
        )
    known = known_names(dataset)
    ours = [column for name in header.names if (column := known.get(fold(name))) is not None]
    if twice := sorted({column for column in ours if ours.count(column) > 1}):
        raise RejectedInput("duplicate_columns", f"more than one column of the file is {', '.join(twice)}")
