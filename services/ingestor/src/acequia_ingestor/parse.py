"""A file of one of the known formats, or a synthetic draw, in; RAW parts in the dataset's canonical schema out.

Pure and synchronous. Rows are accounted for exactly: `rows_in = sum(part.rows) + sum(rejected.values())`. A row is a
record of the format's kind; comments, headers and blank lines are `lines_skipped`. Only what cannot be read as a
record is rejected here (a ragged line, a number that is none, broken JSON); a value that reads but makes no sense
(negative bytes, a bad address) goes through to RAW, where the contract finds it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from acequia.datasets import Dataset
from acequia.events import SyntheticSource
from acequia.work import RejectedWhole

ROWS_PER_PART = 1_000_000
MAX_RATIO = 200.0
MAX_BYTES = 64 * 2**30


@dataclass(frozen=True, slots=True)
class ParseOptions:
    """All that changes what a file's bytes are read as. Its digest, with the bytes' own, names the claim.

    `format` is better resolved first (`detect.resolve_format`), so that naming the format that would have been
    detected anyway is the same claim.
    """

    dataset: str
    format: str | None = None

    def claim_digest(self, content_sha256: str) -> str:
        """Hex sha256 over the content's sha256 and these options."""
        options = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(f"{content_sha256}\n{options}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class PartFile:
    """One RAW object to be: Parquet, the canonical schema and `_line` (Int64, from 1).

    Part `number` (from 1) holds the source's records (number-1)*rows_per_part+1 .. number*rows_per_part without the
    unparsable ones; a part of which nothing is left is not written, so that numbers may have gaps.
    """

    number: int
    path: Path
    rows: int
    time_range: tuple[str, str] | None
    """ISO 8601 UTC of the first and the last event; None where no row has a timestamp."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a source gave. `parts` is never empty: a source without a row raises `NoRows`."""

    parts: Sequence[PartFile]
    rows_in: int
    format: str
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Unparsable records by rule."""
    rejected_rows: Path | None = None
    """Parquet, in the source's order: `_line` (Int64), `rule`, `reason`, `raw` (its text, cut at 64 KiB)."""
    lines_skipped: Mapping[str, int] = field(default_factory=dict)
    """Lines that are no records, by reason (`comment`, `header`, `blank`)."""


class NoRows(RejectedWhole):
    """The source was read to its end and no record of it can be used (rule `no_rows`): all of them are counted."""

    def __init__(
        self,
        reason: str,
        *,
        rows_in: int,
        rejected: Mapping[str, int],
        rejected_rows: Path | None,
        lines_skipped: Mapping[str, int],
        format: str,
    ) -> None:
        super().__init__("no_rows", reason, rows_in=rows_in, rejected=rejected)
        self.rejected_rows = rejected_rows
        self.lines_skipped = dict(lines_skipped)
        self.format = format


def parse_file(
    source: Path,
    file_name: str,
    dataset: Dataset,
    format: str | None,
    out: Path,
    *,
    rows_per_part: int = ROWS_PER_PART,
    max_ratio: float = MAX_RATIO,
    max_bytes: int = MAX_BYTES,
    max_rows: int | None = None,
) -> Parsed:
    """Read `source` (gzip, bzip2 and zstd are unpacked, whatever the name says) into parts below the folder `out`.

    `format` None: detected by content. `file_name` is only used in messages. The same bytes give the same files,
    byte for byte. Nothing of the result may be used where this raises.
    Raises RejectedInput where the whole file is no good: `empty`, `truncated`, `unreadable`, `zip_bomb`,
    `unknown_format`, `ambiguous_format`, `missing_columns`, `too_many_rows`; NoRows (`no_rows`).
    """
    raise NotImplementedError


def draw_synthetic(
    source: SyntheticSource, dataset: Dataset, out: Path, *, rows_per_part: int = ROWS_PER_PART, start: datetime
) -> Parsed:
    """Draw `source.rows` events that end at `start` (aware) into parts below `out`. `format` is `synthetic`.

    The same source and start give the same files, byte for byte.
    Raises RejectedInput (`no_generator`) where the dataset has none.
    """
    raise NotImplementedError
