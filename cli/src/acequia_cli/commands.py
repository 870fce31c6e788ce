"""What each command does: asks over HTTP, gives a document, prints it for people."""

import asyncio
import contextlib
import glob
import json
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table
from rich.text import Text

from acequia.errors import AcequiaError, ConfigurationError
from acequia_cli.client import Api
from acequia_cli.complaints import DONE, FAILED, WRONG_USE, Complaint, WrongUse
from acequia_cli.connection import Connection, Where, connect
from acequia_cli.follow import Watched, follow
from acequia_cli.lineage import print_lineage
from acequia_cli.owner import owner_url
from acequia_cli.progress import count, open_view, sending, ticking
from acequia_cli.summary import print_many, print_summary, state_text, summarise

INTERRUPTED = 130
UNBOUND_WIDTH = 160
"""Columns where the output goes to no terminal."""
LISTED_MOST = 10_000
"""Objects that one answer lists, to people and in a document. All of them are counted."""
NOT_NOW = "Nothing works on it once this command has ended. It goes on with the next `acequia up` or command."


@dataclass(frozen=True, slots=True)
class Output:
    """Where a command writes. With --json all but the document goes to stderr."""

    as_json: bool
    console: Console

    @classmethod
    def open(cls, as_json: bool) -> "Output":
        return cls(as_json, open_console(stderr=as_json))

    def document(self, document: Any) -> None:
        if self.as_json:
            sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
            sys.stdout.flush()

    def remark(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)


def open_console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=UNBOUND_WIDTH)


class Command(Protocol):
    async def run(self, output: Output) -> int:
        """Print; the exit code. Raises Complaint, or AcequiaError from the embedded installation."""
        ...


def carry_out(command: Command, *, as_json: bool) -> int:
    """Run a command to its exit code. What was expected to go wrong is one line on stderr."""
    output = Output.open(as_json)
    try:
        return asyncio.run(_interruptible(command, output))
    except (KeyboardInterrupt, asyncio.CancelledError):
        message = "stopped. What was accepted is durable; embedded, it goes on with the next `acequia up` or command"
        code = INTERRUPTED
    except Complaint as complaint:
        message, code = str(complaint), complaint.exit_code
    except ConfigurationError as error:
        message, code = str(error), WRONG_USE
    except (AcequiaError, OSError) as error:
        message, code = str(error), FAILED
    output.document({"error": message, "exit_code": code})
    sys.stderr.write(f"acequia: {message}\n")
    return code


async def _interruptible(command: Command, output: Output) -> int:
    """SIGTERM ends a command as Ctrl-C does: in order, with what it started stopped."""
    task = asyncio.current_task()
    assert task is not None
    with contextlib.suppress(NotImplementedError):  # no such thing on Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await command.run(output)


# ingestion


@dataclass(frozen=True, slots=True)
class IngestSynthetic:
    where: Where
    dataset: str
    rows: int
    seed: int
    anomaly_rate: float
    idempotency_key: str | None = None
    wait: bool = True
    timeout: float | None = None

    async def run(self, output: Output) -> int:
        async with connected(self.where, output) as connection:
            watched = await self.start(connection.api)
            return await see_through([watched], connection, output, wait=self.wait, at_most=self.timeout)

    async def start(self, api: Api) -> Watched:
        watched = Watched("", f"{self.rows:,} synthetic events")
        watched.run_id = await api.ingest_synthetic(
            self.dataset, self.rows, self.seed, self.anomaly_rate, self.idempotency_key
        )
        return watched


@dataclass(frozen=True, slots=True)
class IngestFiles:
    where: Where
    paths: tuple[str, ...]
    dataset: str | None = None
    format: str | None = None
    csv: str | None = None
    idempotency_key: str | None = None
    wait: bool = True
    timeout: float | None = None

    async def run(self, output: Output) -> int:
        files = expand(self.paths)
        if self.idempotency_key and len(files) > 1:
            raise WrongUse(f"an --idempotency-key names one run, and these are {len(files)} files: give one at a time")
        async with connected(self.where, output) as connection:
            watched = []
            for path in files:
                try:
                    watched.append(await self.start(path, connection.api, output))
                except Complaint as complaint:
                    if not watched:
                        raise
                    ids = ", ".join(one.run_id for one in watched)
                    raise type(complaint)(f"{path}: {complaint} (accepted before it: {ids})") from complaint
            return await see_through(watched, connection, output, wait=self.wait, at_most=self.timeout)

    async def start(self, path: Path, api: Api, output: Output) -> Watched:
        watched = Watched("", path.name)
        with sending(output.console, path.name, path.stat().st_size) as bar:
            watched.run_id = await api.ingest_file(
                path,
                dataset=self.dataset,
                format=self.format,
                csv=self.csv,
                idempotency_key=self.idempotency_key,
                sent=lambda sent: bar.update(bar.task_ids[0], completed=sent),
            )
        return watched


@dataclass(frozen=True, slots=True)
class Demo:
    where: Where
    rows: int
    seed: int
    anomaly_rate: float
    file: Path | None = None
    timeout: float | None = None

    async def run(self, output: Output) -> int:
        files = expand([str(self.file)]) if self.file else []
        async with connected(self.where, output) as connection:
            if files:
                watched = await IngestFiles(self.where, (str(files[0]),)).start(files[0], connection.api, output)
            else:
                drawn = IngestSynthetic(self.where, "network_events", self.rows, self.seed, self.anomaly_rate)
                watched = await drawn.start(connection.api)
            return await see_through([watched], connection, output, at_most=self.timeout, lineage=True)


def expand(paths: Sequence[str]) -> list[Path]:
    """The files that are meant, each once, in order. WrongUse where one is none."""
    found: dict[Path, None] = {}
    for text in paths:
        path = Path(text).expanduser()
        if path.is_dir():
            raise WrongUse(f"{text} is a folder: name the files in it, for instance '{text.rstrip('/')}/*.log'")
        if path.is_file():
            found[path] = None
            continue
        matching = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if Path(name).is_file()]  # noqa: PTH207 - may be absolute
        if not matching:
            raise WrongUse(f"{text}: no such file")
        found |= dict.fromkeys(matching)
    return list(found)


@contextlib.asynccontextmanager
async def connected(where: Where, output: Output, *, once: bool = False) -> AsyncIterator[Connection]:
    """`connect`, with a word while the embedded installation starts."""
    where = where.resolved()
    if output.console.is_terminal and not (where.url or where.store) and owner_url(where.data) is None:
        output.remark(f"Starting the embedded installation in {where.data} ...")
    async with connect(where, once=once) as connection:
        yield connection


async def see_through(
    watched: Sequence[Watched],
    connection: Connection,
    output: Output,
    *,
    wait: bool = True,
    at_most: float | None = None,
    lineage: bool = False,
) -> int:
    """Wait for the runs, print what became of them; the exit code."""
    if wait:
        with open_view(output.console) as view:
            await follow(connection.api, watched, view, at_most=at_most)
    else:
        for one in watched:
            one.page = await connection.api.run(one.run_id)
    documents = [
        summarise(one, connection, await _lineage(one, connection.api) if lineage else None) for one in watched
    ]
    output.document(documents[0] if len(documents) == 1 else {"runs": documents})
    if not wait:
        for one in watched:
            output.remark(f"Accepted {one.label} as run {one.run_id}")
        if connection.in_process:
            output.remark(NOT_NOW)
        return DONE
    if not output.as_json:
        if len(documents) == 1:
            print_summary(output.console, documents[0], connection)
        else:
            print_many(output.console, documents)
    if unfinished := [one.run_id for one in watched if not one.finished]:
        sys.stderr.write(f"acequia: gave up waiting after {at_most:g} s; not finished: {', '.join(unfinished)}\n")
    return DONE if all(one.succeeded for one in watched) else FAILED


async def _lineage(one: Watched, api: Api) -> dict[str, Any] | None:
    model = one.page.get("model")
    return await api.lineage(model) if model and one.finished else None


# the installation


@dataclass(frozen=True, slots=True)
class Up:
    data: Path
    port: int
    host: str

    async def run(self, output: Output) -> int:
        if (url := owner_url(self.data)) is not None:
            raise WrongUse(f"{self.data} is served already, at {url}: use that, or another folder with --data")
        from acequia_cli.embedded import serve_embedded  # noqa: PLC0415 - it brings polars and scikit-learn

        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)  # it has its own
        output.remark(f"Starting the embedded installation in {self.data} ...")
        await serve_embedded(self.data, self.port, host=self.host, on_ready=lambda url: self._greet(url, output))
        output.remark("Stopped. The data stays; `acequia up` goes on where it was.")
        return DONE

    def _greet(self, url: str, output: Output) -> None:
        output.document({"url": url, "docs": f"{url}/docs", "data": str(self.data.absolute())})
        body = '{"dataset":"network_events","source":{"kind":"synthetic","rows":1000,"seed":7,"anomaly_rate":0.02}}'
        output.remark(
            f"Acequia serves {self.data} at {url}\n"
            f"  docs   {url}/docs\n"
            f"  try    curl -i {url}/ingestions -H 'Content-Type: application/json' -d '{body}'\n"
            f"  or     acequia ingest file conn.log --url {url}\n"
            "Ctrl-C stops it."
        )


# questions


@contextlib.asynccontextmanager
async def asked(where: Where) -> AsyncIterator[Connection]:
    """Connect to ask what was done: there is nothing to tell where no installation is."""
    where = where.resolved()
    if not (where.url or where.store or where.data.is_dir()):
        raise WrongUse(
            f"there is no installation in {where.data} yet: try `acequia demo`, or name one with --data or --url"
        )
    async with connect(where) as connection:
        yield connection


@contextlib.asynccontextmanager
async def asked_anywhere(where: Where) -> AsyncIterator[Connection]:
    """Connect to ask what is the same in each installation; where there is none, in a throwaway one."""
    where = where.resolved()
    if where.url or (where.data.is_dir() and not where.store):
        async with connect(where) as connection:
            yield connection
        return
    with tempfile.TemporaryDirectory(prefix="acequia-") as folder:
        Path(folder).chmod(0o711)  # started by root, PostgreSQL runs as a user of its own, which has to get in
        async with connect(Where(Path(folder) / "data")) as connection:
            yield connection


@dataclass(frozen=True, slots=True)
class ListRuns:
    where: Where
    limit: int = 20
    dataset: str | None = None
    status: str | None = None

    async def run(self, output: Output) -> int:
        async with asked(self.where) as connection:
            found = await connection.api.runs(limit=self.limit, dataset=self.dataset, status=self.status)
        output.document({"runs": found})
        if not output.as_json:
            if found:
                output.console.print(_runs_table(found, wide=output.console.width >= 130))
            else:
                output.remark(
                    "No run yet. Try `acequia demo`." if not (self.dataset or self.status) else "No such run."
                )
        return DONE


def _runs_table(found: Sequence[dict[str, Any]], *, wide: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("run", no_wrap=True)
    table.add_column("accepted (UTC)" if wide else "accepted", no_wrap=True)
    if wide:
        table.add_column("dataset")
    table.add_column("source", overflow="fold")
    table.add_column("state", no_wrap=True)
    for name in ("rows", "SILVER", "duplicate", "quarantined") if wide else ("rows",):
        table.add_column(name, justify="right", no_wrap=True)
    for run in found:
        accepted = str(run["accepted_at"])[:19].replace("T", " ")
        names = ("rows_in", "rows_silver", "rows_duplicate", "rows_quarantined") if wide else ("rows_in",)
        table.add_row(
            run["run_id"],
            accepted if wide else accepted[5:16],
            *([run["dataset"]] if wide else []),
            run["source"],
            state_text(run["state"]),
            *(count(run[name]) for name in names),
        )
    return table


@dataclass(frozen=True, slots=True)
class Trace:
    where: Where
    what: str

    async def run(self, output: Output) -> int:
        async with asked(self.where) as connection:
            lineage = await connection.api.lineage(self.what)
        paths = {}
        for node in lineage["nodes"]:
            if (path := connection.path(node["uri"])) is not None:
                node["path"] = str(path.absolute())
                paths[node["uri"]] = str(path)
        output.document(lineage)
        if not output.as_json:
            print_lineage(output.console, lineage, paths)
            if lineage.get("truncated"):
                output.remark("There is more than is shown: trace one of these objects.")
        return DONE


@dataclass(frozen=True, slots=True)
class RebuildAudit:
    where: Where

    async def run(self, output: Output) -> int:
        async with asked(self.where) as connection:
            counts = await connection.api.rebuild()
        output.document(counts)
        if not output.as_json:
            table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
            table.add_column()
            table.add_column(justify="right")
            for name, value in counts.items():
                table.add_row(name.replace("_", " "), count(value) if isinstance(value, int) else str(value))
            output.console.print(table)
            output.remark(
                "Failed attempts, operators' actions and check results are not in the store: see your backup."
            )
        return DONE


@dataclass(frozen=True, slots=True)
class VerifyAudit:
    """Recompute the chain over the audit events, and hold it against its anchors in the store."""

    where: Where

    async def run(self, output: Output) -> int:
        result: dict[str, Any] = {}
        async with asked(self.where) as connection:
            with ticking() as tick:
                async for kind, line in connection.api.verify_audit():
                    if kind == "progress":
                        tick("audit", f"{count(line['seq'])} of {count(line['of'])} records")
                    elif kind == "result":
                        result = line
        output.document(result)
        if not output.as_json:
            output.console.print(_about_the_chain(result), soft_wrap=True)
            for problem in result["problems"]:
                output.console.print(str(problem), style="red", soft_wrap=True, markup=False, highlight=False)
        return DONE if result["ok"] else FAILED


def _about_the_chain(result: Mapping[str, Any]) -> Text:
    head, last = result["head"], result.get("last_anchor")
    records = f"{count(result['records'])} record{'' if result['records'] == 1 else 's'}"
    if not result["ok"]:
        where = f" at record {count(result['first_broken'])}" if result.get("first_broken") else ""
        return Text(f"The chain is broken{where}: {records} looked at.", "bold red")
    if not result["records"]:
        return Text("There is no audit record yet, and so no chain.")
    anchors = f"{count(result['anchors'])} anchor{'' if result['anchors'] == 1 else 's'} in the store"
    anchored = (
        f"; {anchors}, the last at record {count(last['seq'])}" if last else "; nothing is anchored in the store yet"
    )
    whole = Text(
        f"The chain is whole: {records}, none changed, none missing. "
        f"Its head is record {count(head['seq'])} ({head['hash'][:16]}...){anchored}.",
        "bold green",
    )
    if (before := result.get("previous")) is not None:
        whole.append(
            f"\nIt stands in for the chain {before['chain']}, anchored up to record {count(before['seq'])} at "
            f"{before['anchored_at']}: that database was lost, emptied or replaced, and what the store does not tell "
            "(failed attempts, what people did) is not here.",
            "yellow",
        )
    return whole


@dataclass(frozen=True, slots=True)
class ListDatasets:
    where: Where
    names: Sequence[str] = ()

    async def run(self, output: Output) -> int:
        async with asked_anywhere(self.where) as connection:
            found = _named(self.names, await connection.api.datasets(), "dataset")
        output.document({"datasets": found})
        if not output.as_json:
            for dataset in found:
                output.console.print(f"[bold]{dataset['name']}[/]  {dataset['title']}", highlight=False)
                columns = ", ".join(f"{name} ({kind})" for name, kind in dataset["columns"].items())
                table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
                table.add_row("columns", columns)
                for label, value in _about(dataset):
                    table.add_row(label, value)
                output.console.print(table, highlight=False)
        return DONE


@dataclass(frozen=True, slots=True)
class ListFormats:
    where: Where
    names: Sequence[str] = ()

    async def run(self, output: Output) -> int:
        async with asked_anywhere(self.where) as connection:
            found = _named(self.names, await connection.api.formats(), "format")
        output.document({"formats": found})
        if output.as_json:
            return DONE
        if not self.names:
            table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
            for format in found:
                table.add_row(format["name"], format["title"], ", ".join(format["datasets"]))
            output.console.print(table)
            output.remark("\nacequia formats NAME says what is read, what stands for null, and what is skipped.")
        for format in found if self.names else ():
            output.remark(f"{format['name']}: {format['title']}\nof {', '.join(format['datasets'])}\n")
            output.remark(format["description"] + "\n")
        return DONE


def _named(names: Sequence[str], found: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    """Those of `found` that are asked for; all where none is."""
    known = {str(one["name"]): one for one in found}
    if unknown := [name for name in names if name not in known]:
        raise WrongUse(f"No {what} is named {', '.join(map(repr, unknown))}. There is: {', '.join(known)}.")
    return [known[name] for name in dict.fromkeys(names)] if names else found


def _about(dataset: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is to be said of a dataset, but for its columns; nothing of what it has not."""
    if dataset["key"]:
        yield "key", ", ".join(dataset["key"])
    if table := dataset["table"]:
        how = f"what changed by {table['cursor']}" if table["cursor"] else "read in full each time"
        yield "table", f"{table['relation']} of the pack {table['pack']}, {how}"
    if dataset["formats"]:
        yield "formats", ", ".join(dataset["formats"])
    if dataset["patterns"]:
        yield "files", ", ".join(dataset["patterns"])
    if dataset["synthetic"]:
        yield "synthetic", "yes"
    yield "readers", ", ".join(dataset["readers"])
    for schedule in dataset["schedules"]:
        yield "schedule", f"{schedule['name']}: {schedule['cron']} {schedule['timezone']}"


@dataclass(frozen=True, slots=True)
class ShowVersion:
    packages: Sequence[str] = field(default=("acequia-cli",))

    async def run(self, output: Output) -> int:
        number = version("acequia-cli")
        output.document({"version": number})
        if not output.as_json:
            output.remark(f"acequia {number}")
        return DONE
