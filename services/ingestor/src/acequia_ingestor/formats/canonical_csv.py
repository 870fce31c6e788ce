"""A dataset's canonical schema as CSV: a header line with the canonical names, in any order and case.

Separator `,` `;` tab or `|`, quotes where wanted, BOM and CRLF are fine. Optional columns may be missing, further ones
are ignored. Times: ISO 8601 (no offset means UTC) or seconds since 1970. Null: nothing, `-`, `null`, `none`, `na`,
`n/a`, `nan` (in the usual cases of letters). Lines that begin with `#` are comments.
"""

from collections.abc import Iterator
from pathlib import Path

from acequia.datasets import Dataset
from acequia.errors import RejectedInput
from acequia_ingestor.formats import Chunk, Format, Head
from acequia_ingestor.formats._columns import Field, no_rejected, typed
from acequia_ingestor.formats._csv import CsvHeader, first_header, read_csv

_WORDS = ("null", "none", "na", "n/a", "nan")
NULLS = ("", "-", *_WORDS, *(word.upper() for word in _WORDS), "NaN", "None", "Null")


def detect(head: Head, dataset: Dataset) -> bool:
    return bool(dataset.required) and first_header(head, dataset.required) is not None


def read(path: Path, dataset: Dataset) -> Iterator[Chunk]:
    def check(header: CsvHeader) -> None:
        if missing := [name for name in dataset.required if name not in header.names]:
            raise RejectedInput(
                "missing_columns",
                f"the header lacks {', '.join(missing)}; it has {', '.join(header.names)[:500]}",
            )

    for texts, header, done in read_csv(
        path, dataset, dataset.required or dataset.schema, check, columns=dataset.schema
    ):
        if not header.names:
            yield done(texts, no_rejected())
            continue
        fields = [
            Field(name, header.places[name], name, dtype, name, lower=name in dataset.lowered)
            for name, dtype in dataset.schema.items()
            if name in header.places
        ]
        yield done(*typed(texts, fields, NULLS, strip=True))


FORMAT = Format("canonical_csv", "Canonical columns as CSV", detect, read)
