"""`acequia import`: takes over what a predecessor ingested, without starting a run."""

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from acequia_cli.client import Api
from acequia_cli.commands import LISTED_MOST, NOT_NOW, Output
from acequia_cli.complaints import DONE, FAILED, FileGone, ServerAway, TooLarge, WrongUse
from acequia_cli.connection import Where, connect
from acequia_cli.elsewhere import S3, Left, Source, Wanted, open_source
from acequia_cli.ingestion_events import IngestionList, Row, parse_columns
from acequia_cli.progress import Tick, count, ticking

BATCH = 50
"""Files, or rows, in one request."""
AT_ONCE = 4
PATIENCE = (1.0, 2.0, 5.0, 10.0)
"""Seconds between the tries while a server is away, or its queues are full."""
LIMIT = "The ingestor's ACEQUIA_INGESTOR_MAX_UPLOAD_BYTES says so."

T = TypeVar("T")


@dataclass(slots=True)
class Taken:
    """What came of it so far."""

    fates: Counter[str] = field(default_factory=Counter)
    rows_in: int = 0
    rows_raw: int = 0
    rejected_rows: Counter[str] = field(default_factory=Counter)
    listed: Counter[str] = field(default_factory=Counter)
    """Other rows of the list: imported, known."""
    rejected: list[dict[str, Any]] = field(default_factory=list)
    differing: list[dict[str, Any]] = field(default_factory=list)
    """Files that hold another number of rows than the list says."""
    differ: int = 0

    def note(self, left: Left, row: Row | None, answer: dict[str, Any]) -> None:
        self.fates[answer["fate"]] += 1
        if answer["fate"] == "rejected":
            if len(self.rejected) < LISTED_MOST:
                self.rejected.append({"uri": left.uri, "rule": answer["rule"], "reason": answer["reason"]})
            return
        if answer["fate"] == "imported":
            self.rows_in += answer["rows_in"]
            self.rows_raw += answer["rows_raw"]
            self.rejected_rows.update(answer["rejected"])
            if row is not None and row.rows is not None and row.rows != answer["rows_in"]:
                self.differ += 1
                if len(self.differing) < LISTED_MOST:
                    self.differing.append({"uri": left.uri, "listed": row.rows, "found": answer["rows_in"]})

    @property
    def files(self) -> int:
        return self.fates.total()


@dataclass(frozen=True, slots=True)
class Import:
    """Take over files, and the list that was kept of them."""

    where: Where
    sources: tuple[str, ...]
    dataset: str
    pattern: str | None = None
    recursive: bool = False
    database: str | None = None
    table: str = "ingestion_events"
    columns: str | None = None
    zone: str = "UTC"
    dry_run: bool = False
    replay: bool = False

    async def run(self, output: Output) -> int:
        if not self.sources and not self.database:
            raise WrongUse("say what to take over: a folder, s3://bucket, or --database with their table")
        given, zone = parse_columns(self.columns), _zone(self.zone)
        wanted = Wanted(self.pattern or f"{self.dataset}_*.parquet", self.recursive)
        where = self.where.resolved()  # first: an environment's settings say where a bucket lies, too
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="acequia-import-")))
            data = None if where.url else where.data
            sources = [open_source(text, data) for text in self.sources]
            for source in sources:
                stack.push_async_callback(source.close)
            kept: IngestionList | None = None
            if self.database:
                buckets = [text.removeprefix(S3).partition("/")[0] for text in self.sources if text.startswith(S3)]
                kept = IngestionList(folder, zone, buckets)
                stack.callback(kept.close)
                await kept.load(self.database, self.table, given)
            connection = await stack.enter_async_context(connect(where))
            with ticking() as tick:
                taking = _Taking(self, connection.api, folder, zone, kept, tick)
                for source in sources:
                    await taking.take_files(source, wanted)
                await taking.take_rows()
            sent = await self._replay(connection.api) if self.replay and not self.dry_run else None
        document = self._document(taking.taken, wanted, kept, sent)
        output.document(document)
        if not output.as_json:
            self._print(output, document, in_process=connection.in_process)
        return FAILED if document["files"]["rejected"] else DONE

    async def _replay(self, api: Api) -> int:
        """Let it be worked on: what `acequia replay --layer raw --only-missing` would send."""
        sent = 0
        async for kind, line in api.replay({"layer": "raw", "dataset": self.dataset, "only_missing": True}):
            if kind == "result":
                sent += line["sent"]
        return sent

    def _document(self, taken: Taken, wanted: Wanted, kept: IngestionList | None, sent: int | None) -> dict[str, Any]:
        fates = ("imported", "known", "same_content", "rejected")
        return {
            "dry_run": self.dry_run,
            "dataset": self.dataset,
            "files": {
                "found": taken.files + wanted.skipped.total(),
                **{fate: taken.fates[fate] for fate in fates},
                "skipped": dict(wanted.skipped),
            },
            "rows": {"in": taken.rows_in, "raw": taken.rows_raw, "rejected": dict(taken.rejected_rows)},
            "list": {
                "table": self.table,
                "columns": kept.columns,
                "rows": kept.read,
                "of_files": kept.of_files,
                "imported": taken.listed["imported"],
                "known": taken.listed["known"],
                "skipped": dict(kept.skipped),
                "differ": taken.differ,
            }
            if kept
            else None,
            "rejected": taken.rejected,
            "differing": taken.differing,
            "sent": sent,
        }

    def _print(self, output: Output, document: dict[str, Any], *, in_process: bool) -> None:
        for one in document["rejected"]:
            output.remark(f"left alone  {one['uri']}\n            {one['rule']}: {one['reason']}")
        for one in document["differing"]:
            listed, found = count(one["listed"]), count(one["found"])
            output.remark(f"differs     {one['uri']}: the list says {listed} rows, it holds {found}")
        files, rows, kept = document["files"], document["rows"], document["list"]
        would = "would be " if self.dry_run else ""
        said = [f"{count(files['imported'])} {would}taken over"]
        said += [
            f"{count(files[fate])} {words}"
            for fate, words in (
                ("known", "known already"),
                ("same_content", "with content that is here already"),
                ("rejected", "left alone"),
            )
            if files[fate]
        ]
        said += [f"{count(n)} skipped ({why})" for why, n in files["skipped"].items()]
        if self.sources:
            output.remark(f"{count(files['found'])} files: {', '.join(said)}.")
            rejected = sum(rows["rejected"].values())
            apart = f", {count(rejected)} in quarantine" if rejected else ""
            output.remark(f"{count(rows['in'])} rows: {count(rows['raw'])} in RAW{apart}.")
        if kept:
            missing = [f"{count(n)} skipped ({why})" for why, n in kept["skipped"].items()]
            known = [f"{count(kept['known'])} known already"] if kept["known"] else []
            output.remark(
                f"{count(kept['rows'])} rows of {self.table}: {count(kept['of_files'])} of these files, "
                + ", ".join([f"{count(kept['imported'])} of other files {would}taken over", *known, *missing])
                + "."
            )
        if self.dry_run:
            output.remark("Nothing was stored (--dry-run).")
        elif document["sent"] is not None:
            output.remark(f"{count(document['sent'])} objects were sent to be worked on.")
            if in_process and document["sent"]:
                output.remark(NOT_NOW)
        elif files["imported"]:
            output.remark(
                "No run was started. To have it worked on: "
                f"acequia replay --layer raw --dataset {self.dataset} --only-missing"
            )


class _Taking:
    """Asks for one file, or some rows, after the other."""

    def __init__(
        self, asked: Import, api: Api, folder: Path, zone: ZoneInfo, kept: IngestionList | None, tick: Tick
    ) -> None:
        self._asked = asked
        self._api = api
        self._folder = folder
        self._zone = zone
        self._kept = kept
        self._tick = tick
        self.taken = Taken()

    async def take_files(self, source: Source, wanted: Wanted) -> None:
        async for batch in _batches(source.files(wanted)):
            asked = [{"uri": left.uri, "etag": left.etag} for left in batch]
            known = await _patiently(partial(self._api.imports_known, asked))
            slots = asyncio.Semaphore(AT_ONCE)
            rows = [self._kept.take(left.uri.removeprefix(S3), left.name) if self._kept else None for left in batch]
            await asyncio.gather(
                *(
                    self._take_file(source, left, row, slots)
                    for left, row, there in zip(batch, rows, known, strict=True)
                    if not there
                )
            )
            self.taken.fates["known"] += sum(known)
            self._tick("import", f"{count(self.taken.files)} files, {count(self.taken.rows_in)} rows")

    async def _take_file(self, source: Source, left: Left, row: Row | None, slots: asyncio.Semaphore) -> None:
        async with slots:
            try:
                answer = await self._sent(source, left, row)
            except FileGone as gone:
                answer = {"fate": "rejected", "rule": "gone", "reason": str(gone)}
            except TooLarge as error:
                answer = {"fate": "rejected", "rule": "too_large", "reason": f"{error} {LIMIT}"}
            self.taken.note(left, row, answer)
            if self._kept and row and answer["fate"] == "rejected":
                self._kept.give_back(row)

    async def _sent(self, source: Source, left: Left, row: Row | None) -> dict[str, Any]:
        """What became of the file. Raises FileGone, TooLarge."""
        path = await source.fetch(left, self._folder)
        try:
            return await _patiently(
                lambda: self._api.import_file(
                    path,
                    name=left.name,
                    uri=left.uri,
                    etag=left.etag,
                    at=left.at(self._zone).isoformat(),
                    dataset=self._asked.dataset,
                    listed=row.document() if row else None,
                    dry_run=self._asked.dry_run,
                )
            )
        finally:
            if path.is_relative_to(self._folder):
                path.unlink(missing_ok=True)

    async def take_rows(self) -> None:
        """What the list says of files that were not found, or not taken over."""
        if self._kept is None:
            return
        batch: list[dict[str, Any]] = []
        for row in self._kept.left():
            batch.append(row.document())
            if len(batch) == BATCH:
                await self._take_rows(batch)
                batch = []
        if batch:
            await self._take_rows(batch)

    async def _take_rows(self, batch: Sequence[dict[str, Any]]) -> None:
        asked = {"dataset": self._asked.dataset, "rows": [*batch], "dry_run": self._asked.dry_run}
        self.taken.listed.update(await _patiently(lambda: self._api.import_rows(asked)))
        self._tick("list", f"{count(self.taken.listed.total())} rows of other files")


async def _batches(files: AsyncIterator[Left]) -> AsyncIterator[list[Left]]:
    batch: list[Left] = []
    async for left in files:
        batch.append(left)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask again while the server is away: what it did already it does not do twice."""
    for pause in PATIENCE:
        try:
            return await ask()
        except ServerAway:
            await asyncio.sleep(pause)
    return await ask()


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise WrongUse(f"--timezone: {name!r} is no time zone; America/Mexico_City is one") from error
