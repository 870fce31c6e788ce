"""Zeek's conn.log as comma-separated values with a header line, as IoT-23 and other collections hand it out.

Columns in any order, further ones are ignored. Null: nothing, `-` and `(empty)`. Labels are stored in lower case:
collections spell them `Benign` and `benign`. Lines that begin with `#` are comments.
"""

from collections.abc import Iterator
from pathlib import Path

from acequia.datasets import Dataset
from acequia_ingestor.formats import Chunk, Format, Head, _zeek
from acequia_ingestor.formats._columns import no_rejected, typed
from acequia_ingestor.formats._csv import CsvHeader, first_header, read_csv


def detect(head: Head, dataset: Dataset) -> bool:
    return first_header(head, _zeek.TELLING) is not None


def read(path: Path, dataset: Dataset) -> Iterator[Chunk]:
    def check(header: CsvHeader) -> None:
        _zeek.require(header.names)

    for texts, header, done in read_csv(path, dataset, _zeek.REQUIRED, check, columns=_zeek.SOURCES):
        if not header.names:
            yield done(texts, no_rejected())
            continue
        rows, broken = typed(texts, _zeek.fields(header.places, dataset.lowered), _zeek.NULLS, strip=True)
        yield done(_zeek.counted(rows), broken)


FORMAT = Format("zeek_csv", "Zeek conn.log (CSV)", detect, read)
