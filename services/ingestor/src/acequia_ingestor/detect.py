"""What a file is: its dataset and its format, by its content."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from acequia.datasets import Dataset, Registry
from acequia.errors import RejectedInput
from acequia_ingestor.decompress import packing_of, unpacked
from acequia_ingestor.formats import Format, Head, formats_of, load_formats
from acequia_ingestor.formats._csv import SEPARATORS
from acequia_ingestor.formats._json import object_of
from acequia_ingestor.formats._lines import unquote

HEAD_BYTES = 64 * 2**10
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?")


def read_head(source: Path, file_name: str = "") -> Head:
    """The first 64 KiB of what `source` holds, unpacked if need be. Raises as `unpack`."""
    with source.open("rb") as file:
        first = file.read(16)
        file.seek(0)
        if (packing := packing_of(first)) is None:
            data = file.read(HEAD_BYTES + 1)
        else:
            data = b""
            for piece in unpacked(file, packing):
                data += piece
                if len(data) > HEAD_BYTES:
                    break
    if not data:
        raise RejectedInput("empty", "the file has no bytes")
    return Head(data[:HEAD_BYTES], file_name, whole=len(data) <= HEAD_BYTES)


def detect_format(head: Head, candidates: Sequence[str], formats: Mapping[str, Format], dataset: Dataset) -> str:
    """The one of `candidates` whose format the content surely has.

    Raises RejectedInput: `unknown_format` where there is none, `ambiguous_format` where there are several.
    """
    found = [name for name in candidates if formats[name].detect(head, dataset)]
    known = ", ".join(f"{name} ({formats[name].title})" for name in candidates)
    if not found:
        raise RejectedInput(
            "unknown_format",
            f"{head.file_name or 'the file'} has none of the formats of {dataset.name}: it begins with "
            f"{_beginning(head)}; the formats: {known}",
            formats=list(candidates),
        )
    if len(found) > 1:
        raise RejectedInput(
            "ambiguous_format",
            f"{head.file_name or 'the file'} may be {' or '.join(found)}: name one as the format",
            formats=found,
        )
    return found[0]


def _beginning(head: Head) -> str:
    """The first line of what no format knows, and what can be said of it, so that a person sees what is wanting."""
    line = next((line for line in head.lines() if line.strip()), "")
    return f"{line[:120]!r}{_seen_in(line)}"


def _seen_in(line: str) -> str:
    if (record := object_of(line)) is not None:
        return f", JSON with the keys {', '.join(repr(key) for key in list(record)[:30])}"[:500]
    cells = max((unquote(line, by) or [] for by in SEPARATORS), key=len, default=[])
    if len(cells) < 3:
        return ""
    if any(_NUMBER.fullmatch(cell.strip()) for cell in cells):
        return f", a record of {len(cells)} fields without a header that names them"
    return f", a header of {len(cells)} columns, not those of any format"


def resolve_format(source: Path, file_name: str, dataset: Dataset, format: str | None) -> str:
    """The format's name: `format` where it is given, else the one detected. RejectedInput where the dataset has none
    such (`unknown_format`), or as `read_head` and `detect_format` do."""
    formats = load_formats()
    known = formats_of(dataset, formats)
    if format is None:
        return detect_format(read_head(source, file_name), known, formats, dataset)
    if format not in known or format not in formats:
        raise RejectedInput(
            "unknown_format",
            f"{dataset.name} has no format {format!r}; it has {', '.join(known)}",
            formats=list(known),
        )
    return format


def choose_dataset(
    metadata_dataset: str | None,
    key: str,
    head: Head,
    registry: Registry,
    formats: Mapping[str, Format],
) -> Dataset:
    """What the metadata says, else the key's first folder if it names one, else the only matching file pattern, else
    the only one of whose formats one detects the content. Raises RejectedInput (`unknown_dataset`) that lists them."""
    known = ", ".join(registry)
    if metadata_dataset:
        if metadata_dataset not in registry:
            raise RejectedInput("unknown_dataset", f"there is no dataset {metadata_dataset!r}; there are: {known}")
        return registry[metadata_dataset]
    folder, _, rest = key.partition("/")
    if rest and folder in registry:
        return registry[folder]
    name = key.rpartition("/")[2] or key
    matching = registry.matching(name)
    if len(matching) == 1:
        return matching[0]
    fitting = [
        dataset
        for dataset in registry.values()
        if any(formats[name].detect(head, dataset) for name in formats_of(dataset, formats))
    ]
    if len(fitting) == 1:
        return fitting[0]
    why = f"its content is of no known format (it begins with {_beginning(head)})"
    if fitting:
        why = f"it may be {' or '.join(d.name for d in fitting)}"
    raise RejectedInput(
        "unknown_dataset",
        f"nothing says what {name!r} is: no metadata, no folder or file name that names a dataset, and {why}; "
        f"datasets: {known}",
        datasets=list(registry),
    )
