"""The layers an object passes through, their buckets, and the one rule by which keys are made."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from uuid import UUID, uuid5

from acequia.errors import RejectedInput

NAMESPACE = UUID("6f1f2f0e-6a51-5b3c-9d0a-ace0c1a00001")
"""Namespace of every name-based UUID that Acequia makes."""

UNKNOWN_DATASET = "_unknown"
"""Stands where a dataset's name would, for objects of which nobody can say what they are."""

CANARY_PREFIX = "_doctor/"
"""Objects below it, in any layer, are `acequia doctor`'s: no stage takes them for work."""

WAREHOUSE = "warehouse/"
"""Below it, in LAKE, lie the tables' own files: none of them is an object of ours."""


class Layer(StrEnum):
    LANDING = "landing"
    RAW = "raw"
    SILVER = "silver"
    MODELS = "models"
    EVAL = "eval"
    QUARANTINE = "quarantine"
    LAKE = "lake"
    LEDGER = "ledger"


@dataclass(frozen=True, slots=True)
class Buckets:
    """Which bucket holds which layer: `<prefix>-<layer>`."""

    prefix: str = "cybersec-ml"

    def of(self, layer: Layer) -> str:
        return f"{self.prefix}-{layer.value}"

    def layer(self, bucket: str) -> Layer | None:
        """The layer that lies in `bucket`, or None where the bucket is not ours."""
        head, _, tail = bucket.rpartition("-")
        return Layer(tail) if head == self.prefix and tail in set(Layer) else None

    def uri(self, layer: Layer, key: str) -> str:
        return f"s3://{self.of(layer)}/{key}"


def check_key(key: str) -> None:
    """Raise RejectedInput (`bad_key`) where `key` is none that every store can hold.

    MinIO refuses `.` and `..` as segments, empty segments, segments over 255 bytes, keys over 1,024 bytes, and NUL;
    it drops a slash at the front, and takes one at the end for a folder. The folder store does as it does.
    """
    try:
        segments = key.encode().split(b"/")
    except UnicodeEncodeError:
        raise RejectedInput("bad_key", f"the object's key {key!r} is not UTF-8", key=repr(key)) from None
    if len(key.encode()) > 1024 or "\0" in key or any(s in (b"", b".", b"..") or len(s) > 255 for s in segments):
        raise RejectedInput(
            "bad_key",
            f"the object's key {key!r} can not be stored: no empty, `.` or `..` segment, at most 255 bytes a segment "
            "and 1024 in all",
            key=key,
        )


_STEM = re.compile(
    r"^(?P<dataset>[a-z0-9_]+)_(?P<date>\d{8})_(?P<time>\d{6})_"
    r"(?:(?P<id>[0-9a-f]{16})(?:_(?P<part>\d{4,}))?|plan_(?P<plan>\d{6,}))$"
)
_VARIANT = re.compile(r"^v(?P<version>[0-9]+)-(?P<digest>[0-9a-f]{6})$")


@dataclass(frozen=True, slots=True)
class Stem:
    """The name a work item keeps through all layers, given once, at ingestion (or, for a plan, at planning).

    `<dataset>_<YYYYMMDD>_<HHMMSS>_<id>_<part>`, where `id` is 16 hex digits of the claim or run; without the part
    it names a whole source; `<dataset>_<YYYYMMDD>_<HHMMSS>_plan_<n>` names a plan.
    """

    dataset: str
    at: datetime
    id: str = ""
    part: int | None = None
    plan: int | None = None

    def __str__(self) -> str:
        head = f"{self.dataset}_{self.at:%Y%m%d_%H%M%S}"
        if self.plan is not None:
            return f"{head}_plan_{self.plan:06d}"
        return f"{head}_{self.id}" + (f"_{self.part:04d}" if self.part is not None else "")

    @property
    def date(self) -> date:
        return self.at.date()

    @property
    def folder(self) -> str:
        """`<dataset>/date=YYYY-MM-DD`: where everything of this stem lies, in each layer."""
        return f"{self.dataset}/date={self.at:%Y-%m-%d}"

    @classmethod
    def parse(cls, text: str) -> "Stem | None":
        """The stem that `text` spells, or None where it spells none, or not as we do: a stem has one name."""
        if (match := _STEM.match(text)) is None:
            return None
        try:
            # as fromisoformat reads it, which is five times as fast as strptime: listings have millions of these
            at = datetime.fromisoformat(f"{match['date']}T{match['time']}+00:00").replace(tzinfo=UTC)
        except ValueError:
            return None
        stem = cls(
            dataset=match["dataset"],
            at=at,
            id=match["id"] or "",
            part=int(match["part"]) if match["part"] else None,
            plan=int(match["plan"]) if match["plan"] else None,
        )
        return stem if str(stem) == text else None


def is_variant(text: str) -> bool:
    return _VARIANT.fullmatch(text) is not None


def variant_version(variant: str) -> int:
    """The stage version inside a variant, for "the highest version wins". ValueError where it is none."""
    if (match := _VARIANT.match(variant)) is None:
        raise ValueError(f"not a variant: {variant!r}")
    return int(match["version"])


@dataclass(frozen=True, slots=True)
class Name:
    """A work item's output as its key spells it: the stem and, but for RAW, the variant that wrote it."""

    stem: Stem
    variant: str | None = None

    @classmethod
    def of_key(cls, key: str) -> "Name | None":
        """Parse the key of a RAW or SILVER object, of the JSON that commits work; None where it is none."""
        folder, _, file = key.rpartition("/")
        if file in ("model.json", "evaluation.json", "commit.json"):
            folder, _, text = folder.rpartition("/")
        elif file.endswith(".parquet"):
            text = file.removesuffix(".parquet")
        else:
            return None
        stem_text, _, variant = text.partition(".")
        stem = Stem.parse(stem_text)
        if stem is None or stem.folder != folder or (variant and not is_variant(variant)):
            return None
        return cls(stem, variant or None)


def data_key(stem: Stem, variant: str | None = None) -> str:
    """Key of a Parquet object of RAW (no variant) or SILVER."""
    return f"{stem.folder}/{stem}{f'.{variant}' if variant else ''}.parquet"


def folder_key(stem: Stem, variant: str, file: str) -> str:
    """Key of a file of MODELS or EVAL: each work item has a folder of its own there."""
    return f"{stem.folder}/{stem}.{variant}/{file}"


def rejected_rows_key(stage: str, stem: Stem, variant: str | None = None) -> str:
    """Key in QUARANTINE of the rows of `stem` that were rejected; never an outcome by itself."""
    return f"{stage}/{stem.folder}/{stem}{f'.{variant}' if variant else ''}.rows.parquet"


def manifest_key(stage: str, stem: Stem, variant: str | None = None) -> str:
    """Key in QUARANTINE of the manifest that says why the whole object was rejected: a commit object."""
    return f"{stage}/{stem.folder}/{stem}{f'.{variant}' if variant else ''}.rejected.json"


# LEDGER

ANCHORS = "anchors/"


def command_key(run_id: UUID) -> str:
    return f"commands/{run_id}.json"


def done_key(done_id: UUID) -> str:
    return f"done/{done_id}.json"


def claim_key(dataset: str, digest: str) -> str:
    return f"claims/{dataset}/{digest}.json"


def stage_key(stage: str) -> str:
    return f"stages/{stage}.json"


def dead_key(stage: str, stem: str, variant: str | None = None) -> str:
    return f"dead/{stage}/{stem}{f'.{variant}' if variant else ''}.json"


def held_prefix(layer: Layer) -> str:
    return f"held/{layer.value}/"


def held_key(layer: Layer, stem: Stem) -> str:
    """Key of the mark that holds an object of `layer` back: while it stands, the object's readers leave it alone."""
    return f"{held_prefix(layer)}{stem}.json"


def anchor_prefix(chain: UUID) -> str:
    return f"{ANCHORS}{chain}/"


def anchor_key(chain: UUID, seq: int) -> str:
    """Key of the anchor of the audit chain's record `seq`: the keys' order is the records'."""
    return f"{anchor_prefix(chain)}{seq:012d}.json"


def plan_prefix(stage: str, dataset: str) -> str:
    return f"plans/{stage}/{dataset}/"


def plan_key(stage: str, dataset: str, number: int) -> str:
    return f"{plan_prefix(stage, dataset)}{number:06d}.json"


def start_key(stage: str, dataset: str, number: int, start: int) -> str:
    return f"{plan_prefix(stage, dataset)}{number:06d}.start-{start}.json"


def landing_done_id(bucket: str, key: str, etag: str) -> UUID:
    """Id of the one outcome of a landing object: the same bytes at the same key end in the same `done`."""
    return uuid5(NAMESPACE, f"landing\n{bucket}\n{key}\n{etag}")


def run_id_of(supplied: str | None, bucket: str, key: str, etag: str) -> UUID:
    """The run an object belongs to: a valid id it carries, else one that follows from the object itself."""
    if supplied:
        try:
            return UUID(supplied)
        except ValueError:
            return landing_done_id(bucket, key, etag)
    return landing_done_id(bucket, key, etag)
