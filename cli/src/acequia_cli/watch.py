"""Watch a folder: each file that somebody leaves there is brought in, once.

Nothing is remembered that the server does not know: a file's run follows from its content, its name and how it is to be
read, so whoever starts again asks for that run before it sends anything. A file counts once its size and time of change
have stayed the same for a while; it is asked for regularly, since a shared folder tells nobody what changes in it.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import stat
import time
from collections import deque
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from acequia.errors import RejectedInput
from acequia_cli.client import Api
from acequia_cli.commands import LISTED_MOST, Output, connected
from acequia_cli.complaints import DONE, FAILED, CommandFailed, Complaint, NotThere, ServerAway, WrongUse
from acequia_cli.connection import Where
from acequia_cli.progress import count, sending
from acequia_cli.summary import read_as, taken_for_granted

AWAY = 60.0
"""Seconds for which a server may not answer, where the folder is looked at once."""
PAUSE_MOST = 30.0
PAUSE = 0.2
"""Seconds between two looks while something is under way."""
ASKED_AT_ONCE = 50
"""Runs that are asked for in one look, the oldest first."""
UNFINISHED = (".part", ".partial", ".filepart", ".tmp", ".temp", ".crdownload", ".download", ".swp", "~")
"""Ends of names that programs give files while they write them."""
REJECTED = "rejected"
"""Folder, below the one that files are moved to, of those that were rejected."""


class State(StrEnum):
    """What is known of a file in the folder."""

    CHANGING = "changing"
    LEFT = "left"
    """None of ours, refused, or brought in and kept."""
    SENT = "sent"


@dataclass(slots=True)
class _Seen:
    size: int
    changed: int
    """st_mtime_ns."""
    since: float
    """When it was first seen so, by a clock that only goes on."""
    state: State = State.CHANGING
    sha256: str = ""

    def same(self, now: os.stat_result) -> bool:
        return (self.size, self.changed) == (now.st_size, now.st_mtime_ns)


@dataclass(slots=True)
class _Run:
    """A file that was taken on."""

    path: Path
    label: str
    seen: _Seen
    run_id: str


@dataclass(frozen=True, slots=True)
class Watch:
    where: Where
    folder: Path
    once: bool = False
    move_to: Path | None = None
    recursive: bool = False
    patterns: tuple[str, ...] = ()
    """Shell patterns of file names, any case. None: those of the datasets; with `dataset`, all."""
    dataset: str | None = None
    format: str | None = None
    csv: str | None = None
    settle: float = 5.0
    """Seconds for which a file must not have changed."""
    every: float = 2.0
    """Seconds between two looks."""

    async def run(self, output: Output) -> int:
        if not self.folder.is_dir():
            raise WrongUse(f"{self.folder} is no folder")
        if self.move_to is not None and self.move_to.resolve() == self.folder.resolve():
            raise WrongUse("--move-to names the folder that is watched: name another, or one in it")
        if self.csv is not None:
            _check_csv(self.csv)
        watcher = _Watcher(self, output)
        if self.once:
            await self._watch(watcher, output)
            output.remark(f"{watcher.counted()}.")
        else:
            await _until_stopped(self._watch(watcher, output))
            output.remark(f"Stopped. {watcher.counted()}; what was sent goes on.")
        output.document(watcher.document())
        return FAILED if self.once and watcher.amiss else DONE

    async def _watch(self, watcher: "_Watcher", output: Output) -> None:
        async with connected(self.where, output) as connection:
            if self.once:
                await watcher.until_all_is_in(connection.api)
                return
            output.remark(f"Watching {self.folder}. Ctrl-C stops it.")
            await watcher.for_ever(connection.api)


def _check_csv(text: str) -> None:
    from acequia_ingestor.csv_options import read_csv_options  # noqa: PLC0415

    try:
        read_csv_options(text)
    except RejectedInput as rejected:
        raise WrongUse(rejected.reason) from rejected


async def _until_stopped(work: Coroutine[Any, Any, None]) -> None:
    """Carry on until SIGTERM or SIGINT, which end it as they should."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError):  # no such thing on Windows
        for sign in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sign, stop.set)
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    for task in (working, stopping):
        task.cancel()
    try:
        await working
    except asyncio.CancelledError:
        if not stop.is_set():
            raise


class _Watcher:
    def __init__(self, watch: Watch, output: Output) -> None:
        self._watch = watch
        self._output = output
        self._seen: dict[Path, _Seen] = {}
        self._runs: list[_Run] = []
        self._patterns: Sequence[str] | None = None
        self._told: set[str] = set()
        self._files: deque[dict[str, Any]] = deque(maxlen=LISTED_MOST)
        self.brought_in = 0
        self.known = 0
        self.amiss = 0

    # the two ways of going on

    async def for_ever(self, api: Api) -> None:
        pause = PAUSE
        while True:
            try:
                await self._look(api)
                pause = PAUSE if self._runs else self._watch.every
            except CommandFailed as failure:  # ServerAway, or an answer that is a bug's: neither ends the watch
                self._tell_once(f"{failure}. Trying again.", "away")
                pause = min(max(pause, 1.0) * 2, PAUSE_MOST)
            else:
                self._told.discard("away")
            await asyncio.sleep(pause)

    async def until_all_is_in(self, api: Api) -> None:
        """What is in the folder now. ServerAway where nobody answers for a minute."""
        only = {path for path, _ in self._scan()}
        away_since: float | None = None
        while True:
            try:
                await self._look(api, only)
                away_since = None
            except ServerAway as away:
                self._tell_once(f"{away}. Trying again.", "away")
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > AWAY:
                    raise
                await asyncio.sleep(1.0)
                continue
            settling = any(s.state is State.CHANGING for path, s in self._seen.items() if path in only)
            if not self._runs and not settling:
                return
            await asyncio.sleep(PAUSE)

    # one look

    async def _look(self, api: Api, only: set[Path] | None = None) -> None:
        if self._patterns is None:
            self._patterns = await self._wanted(api)
        now = time.monotonic()
        found: set[Path] = set()
        for path, status in await asyncio.to_thread(lambda: list(self._scan())):
            if only is not None and path not in only:
                continue
            found.add(path)
            before = self._seen.get(path)
            if before is None or not before.same(status):
                seen = self._seen[path] = _Seen(status.st_size, status.st_mtime_ns, now)
                if not self._ours(path):
                    seen.state = State.LEFT
                elif only is not None and before is not None:
                    seen.state = State.LEFT
                    self.amiss += 1
                    self._tell(f"{self._label(path)}: it is still being written; it is left for the next time")
        for path in self._seen.keys() - found:
            del self._seen[path]
            self._told.discard(f"left {path}")
        for path in sorted(found):
            seen = self._seen[path]
            if seen.state is State.CHANGING and now - seen.since >= self._watch.settle:
                await self._take(path, seen, api)
        for run in self._runs[:ASKED_AT_ONCE]:
            await self._follow(run, api)
        self._runs = [run for run in self._runs if run.seen.state is State.SENT]

    async def _wanted(self, api: Api) -> Sequence[str]:
        """The patterns of the files that are meant. WrongUse where there is no such dataset."""
        watch = self._watch
        datasets = {str(dataset["name"]): dataset for dataset in await api.datasets()}
        if watch.dataset is not None and watch.dataset not in datasets:
            raise WrongUse(f"no dataset is named {watch.dataset!r}: there is {', '.join(datasets)}")
        if watch.patterns or watch.dataset:
            return watch.patterns or ("*",)
        return [pattern for dataset in datasets.values() for pattern in dataset["patterns"]]

    def _scan(self) -> Iterator[tuple[Path, os.stat_result]]:
        """The files that may be meant. What can't be read is told, once."""
        away = self._watch.move_to.resolve() if self._watch.move_to else None
        folders = [self._watch.folder]
        while folders:
            folder = folders.pop()
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                self._tell_once(f"{folder} can't be read: {error.strerror}", f"folder {folder}")
                continue
            for entry in entries:
                if entry.name.startswith((".", "~$")) or entry.name.lower().endswith(UNFINISHED):
                    continue
                path = Path(entry.path)
                try:
                    if entry.is_dir(follow_symlinks=False):
                        if self._watch.recursive and path.resolve() != away:
                            folders.append(path)
                    elif stat.S_ISREG((status := entry.stat()).st_mode):
                        yield path, status
                except FileNotFoundError:
                    continue  # it went away meanwhile
                except OSError as error:  # a link in a circle, or to where nobody may look
                    self._tell_once(f"{self._label(path)} can't be read: {error.strerror}", f"file {path}")

    def _ours(self, path: Path) -> bool:
        name = path.name.lower()
        if any(fnmatch(name, pattern.lower()) for pattern in self._patterns or ()):
            return True
        if not self._watch.patterns:
            why = "no dataset has a pattern for its name; it is left alone (--pattern and --dataset take others)"
            self._tell_once(f"{self._label(path)}: {why}", f"left {path}")
        return False

    async def _take(self, path: Path, seen: _Seen, api: Api) -> None:
        """Send the file, unless it was sent before. What is wrong with it alone is told."""
        watch = self._watch
        label = self._label(path)
        try:
            seen.sha256 = seen.sha256 or await asyncio.to_thread(_sha256, path)
            key = self._key(path, seen.sha256)
            run = _Run(path, label, seen, _run_of(key))
            try:
                await api.run(run.run_id)
                self.known += 1
            except NotThere:
                with sending(self._output.console, label, seen.size) as bar:
                    await api.ingest_file(
                        path,
                        dataset=watch.dataset,
                        format=watch.format,
                        csv=watch.csv,
                        idempotency_key=key,
                        sent=lambda sent: bar.update(bar.task_ids[0], completed=sent),
                        sha256=seen.sha256,
                    )
                self.brought_in += 1
                self._tell(f"{label}: sent, run {run.run_id}")
        except FileNotFoundError:
            return
        except ServerAway:
            raise
        except (Complaint, OSError, UnicodeError) as error:
            changed = isinstance(error, CommandFailed) and not seen.same(await asyncio.to_thread(path.stat))
            if changed:
                return  # the next look sees it
            seen.state = State.LEFT
            self.amiss += 1
            self._tell(f"{label}: not taken: {error}")
            self._files.append({"file": label, "state": "refused", "error": str(error)})
            return
        seen.state = State.SENT
        self._runs.append(run)

    def _key(self, path: Path, digest: str) -> str:
        """What makes it one and the same request: content, name, and how it is to be read."""
        watch = self._watch
        asked = json.dumps([digest, path.name, watch.dataset, watch.format, watch.csv])
        return f"file-{hashlib.sha256(asked.encode()).hexdigest()}"

    async def _follow(self, run: _Run, api: Api) -> None:
        """Tell how it ended, once it has, and put the file away."""
        try:
            first = page = await api.run(run.run_id)
            if page.get("finished") and page.get("state") == "same_content" and page.get("same_as"):
                first = await api.run(str(page["same_as"]))
        except NotThere:  # whoever answers does not know it yet
            return
        if not (page.get("finished") and first.get("finished")):
            return
        run.seen.state = State.LEFT
        succeeded = first.get("state") == "done"
        self.amiss += not succeeded
        self._tell(f"{run.label}: {_outcome(page, first)}")
        moved = await asyncio.to_thread(self._put_away, run, succeeded) if self._watch.move_to else None
        error = first.get("error") or {}
        self._files.append(
            {
                "file": run.label,
                "run_id": run.run_id,
                "dataset": page.get("dataset"),
                "state": page.get("state"),
                "same_as": page.get("same_as"),
                **{name: page.get(name) for name in ("rows_in", "rows_silver", "rows_duplicate", "rows_quarantined")},
                "quarantined_by_rule": dict(page.get("quarantined_by_rule") or {}),
                "error": error.get("message"),
                "moved_to": str(moved) if moved else None,
            }
        )

    def _put_away(self, run: _Run, succeeded: bool) -> Path | None:
        """Move the file, unless it is another one by now; where to."""
        assert self._watch.move_to is not None
        to = self._watch.move_to if succeeded else self._watch.move_to / REJECTED
        target = to / run.path.relative_to(self._watch.folder)
        try:
            if not run.seen.same(run.path.stat()):
                return None
            target.parent.mkdir(parents=True, exist_ok=True)
            number = 1
            while target.exists():
                number += 1
                target = target.with_name(f"{run.path.stem}.{number}{run.path.suffix}")
            shutil.move(run.path, target)
        except OSError as error:
            self._tell(f"{run.label}: it is in, and can't be moved to {to}: {error.strerror or error}")
            return None
        return target

    # what people are told

    def _label(self, path: Path) -> str:
        return str(path.relative_to(self._watch.folder)).encode(errors="backslashreplace").decode()

    def _tell(self, text: str) -> None:
        self._output.remark(text)

    def _tell_once(self, text: str, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._tell(text)

    def counted(self) -> str:
        counts = f"{count(self.brought_in)} file{'' if self.brought_in == 1 else 's'} sent"
        known = f", {count(self.known)} had been before" if self.known else ""
        return f"{counts}{known}" + (f", {count(self.amiss)} not well" if self.amiss else "")

    def document(self) -> dict[str, Any]:
        return {
            "folder": str(self._watch.folder),
            "brought_in": self.brought_in,
            "known_before": self.known,
            "not_well": self.amiss,
            "files": list(self._files),
        }


def _outcome(page: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """How a run ended, in a line. `first`: the page of the run that brought the same content before, or `page`."""
    state = str(first.get("state"))
    rows = f"{count(page.get('rows_in'))} rows, {count(page.get('rows_silver') or 0)} in SILVER"
    if kept_apart := page.get("rows_quarantined"):
        rules = page.get("quarantined_by_rule") or {}
        named = ", ".join(f"{rule} {count(rules[rule])}" for rule in sorted(rules, key=lambda r: (-rules[r], r))[:3])
        rows += f", {count(kept_apart)} in quarantine" + (f" ({named})" if named else "")
    if duplicate := page.get("rows_duplicate"):
        rows += f", {count(duplicate)} duplicate"
    if guessed := taken_for_granted(read_as(page)):
        rows += f"; nothing in it tells that it is {', '.join(guessed)}"
    before = f"the same content as run {page['same_as']}, " if first is not page else ""
    if state == "done":
        return f"{before}done: {rows}"
    error = (first.get("error") or {}).get("message") or "its run tells why"
    return f"{before}{state}: {error} (run {page['run_id']})"


def _run_of(key: str) -> str:
    from acequia_ingestor.api import keyed_run_id  # noqa: PLC0415 - it brings polars

    return str(keyed_run_id(key))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
