"""What a file is: its dataset and its format, by its content."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from acequia.datasets import Dataset, Registry
from acequia_ingestor.formats import Format, Head


def read_head(source: Path, file_name: str) -> Head:
    """The first 64 KiB of what `source` holds, unpacked if need be. Raises RejectedInput (`empty`, `truncated`)."""
    raise NotImplementedError


def detect_format(head: Head, candidates: Sequence[str], formats: Mapping[str, Format], dataset: Dataset) -> str:
    """Raises RejectedInput: `unknown_format` where none fits, `ambiguous_format` where several do."""
    raise NotImplementedError


def resolve_format(source: Path, file_name: str, dataset: Dataset, format: str | None) -> str:
    """The format's name: `format` if the dataset knows it, else the one detected. Raises RejectedInput."""
    raise NotImplementedError


def choose_dataset(
    metadata_dataset: str | None,
    key: str,
    head: Head,
    registry: Registry,
    formats: Mapping[str, Format],
) -> Dataset:
    """What the metadata says, else the key's first folder if it names one, else the only matching file pattern, else
    the only one of whose formats one detects the content. Raises RejectedInput (`unknown_dataset`) that lists them."""
    raise NotImplementedError
