"""Tables of a database: have them loaded, wait, tell what came of each, and what its checks say."""

import asyncio
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from acequia_cli.chain import Page
from acequia_cli.commands import INTERRUPTED, NOT_NOW, Output, connected
from acequia_cli.complaints import DONE, FAILED, WrongUse
from acequia_cli.connection import Where
from acequia_cli.follow import View, Watched, follow
from acequia_cli.progress import count, plural, seconds
from acequia_cli.several import ALL
from acequia_cli.summary import state_text

BLOCKED = "blocked"
"""The rule by which a stage leaves what a check blocked."""
WARN = "warn"
"""The severity of a check that is told, and stops nothing."""
TOLD_MOST = 5
"""Problems that the last line names; the document has all."""


@dataclass(frozen=True, slots=True)
class IngestTables:
    """Load tables of the database that the ingestor knows, or only ask their checks."""

    where: Where
    tables: tuple[str, ...] = ()
    """Datasets; none: all of the pack."""
    full_refresh: tuple[str, ...] = ()
    """Those that are read anew in full; `ALL`: each that is loaded."""
    pack: str | None = None
    connection: str | None = None
    """Name of the database, where the ingestor knows several."""
    validate: bool = False
    """A check that fails fails the command, whatever its severity, and all of them are listed."""
    only_validate: bool = False
    idempotency_key: str | None = None
    wait: bool = True
    timeout: float | None = None

    def source(self) -> dict[str, Any]:
        """As POST /ingestions takes it. WrongUse where the flags contradict each other."""
        if self.only_validate and self.full_refresh:
            raise WrongUse("--only-validate loads nothing, so there is nothing to refresh: choose one")
        if self.tables and self.pack:
            raise WrongUse("--pack means all tables of a pack, --tables some: choose one")
        refreshed = (self.tables or self._of_pack()) if ALL in self.full_refresh else self.full_refresh
        source: dict[str, Any] = {
            "kind": "postgres",
            "tables": list(self.tables),
            "full_refresh": list(refreshed),
            "only_validate": self.only_validate,
        }
        named = {"pack": self.pack, "connection": self.connection}
        return source | {name: value for name, value in named.items() if value is not None}

    def _of_pack(self) -> tuple[str, ...]:
        """Every table of the pack, as this version of Acequia knows it."""
        from acequia.datasets import load_registry  # noqa: PLC0415 - it brings polars
        from acequia_ingestor.sources.postgres import packs  # noqa: PLC0415

        there = packs(load_registry())
        pack = self.pack or (next(iter(there)) if len(there) == 1 else "")
        if pack not in there:
            raise WrongUse(f"say which tables are meant, or which pack of {', '.join(there)}")
        return there[pack]

    async def run(self, output: Output) -> int:
        where = self.where.resolved()
        try:
            return await self._run(where, output)
        except asyncio.CancelledError:
            if where.store is None:
                raise
            # all is stopped in order, but a thread that waits for the database would keep the process
            from acequia.app import leave  # noqa: PLC0415 - it is loaded already

            message = "stopped. What was accepted is durable, and the next run goes on with it"
            output.document({"error": message, "exit_code": INTERRUPTED})
            sys.stderr.write(f"acequia: {message}\n")
            leave(INTERRUPTED)

    async def _run(self, where: Where, output: Output) -> int:
        source = self.source()
        async with connected(where, output, once=True) as connection:
            watched = Watched("", ", ".join(self.tables) or f"the tables of {self.pack or 'the database'}")
            watched.run_id = await connection.api.ingest(source, self.idempotency_key)
            if not self.wait:
                output.document({"run_id": watched.run_id, "state": "accepted", "finished": False})
                output.remark(f"Accepted as run {watched.run_id}")
                if connection.in_process:
                    output.remark(NOT_NOW)
                return DONE
            with _view(output.console) as view:
                await follow(connection.api, [watched], view, at_most=self.timeout)
        document = outcome(watched, validate=self.validate)
        output.document(document)
        if not output.as_json:
            print_outcome(output.console, document, every_check=self.validate or self.only_validate)
        if not watched.finished:
            sys.stderr.write(f"acequia: gave up waiting after {self.timeout:g} s; the run goes on: {watched.run_id}\n")
        return DONE if document["ok"] else FAILED


def outcome(one: Watched, *, validate: bool) -> dict[str, Any]:
    """What became of the run, as one document. `validate`: a check of any severity counts."""
    page = one.page
    tables = loaded(page)
    problems = [f"{name}: {told}" for name, table in tables.items() for told in _amiss(table, validate=validate)]
    problems += _further_on(page)
    error = page.get("error")
    state = page.get("state", "accepted")
    if one.finished and state != "done" and not problems:
        problems.append(str((error or {}).get("message") or f"the run is {state}"))
    return {
        "run_id": one.run_id,
        "state": state,
        "finished": one.finished,
        "ok": one.finished and not problems,
        "problems": problems,
        "tables": tables,
        **{name: page.get(name) for name in ("rows_raw", "rows_silver", "rows_quarantined")},
        "quarantined_by_rule": dict(page.get("quarantined_by_rule") or {}),
        "seconds": round(one.seconds, 3) if one.seconds is not None else None,
        "error": {key: error.get(key) for key in ("type", "rule", "message")} if error else None,
    }


def loaded(page: Page) -> dict[str, dict[str, Any]]:
    """What the ingestor says of each table, as its last outcome told it; none as long as there is no outcome."""
    for event in reversed((page.get("stages") or {}).get("ingestor", ())):
        if isinstance(told := (event.get("parameters") or {}).get("tables"), Mapping):
            return {name: dict(table) for name, table in told.items()}
    return {}


def _amiss(table: Mapping[str, Any], *, validate: bool) -> Iterator[str]:
    """What makes the command fail."""
    if table.get("rejected"):
        yield f"rejected ({table['rejected']})"
    for check in _failed(table):
        if validate or check.get("on_failure") != WARN:
            yield f"check {check['name']} failed"


def _further_on(page: Page) -> list[str]:
    """What went wrong after the ingestor. That a check's word was kept there is no news."""
    found: dict[str, None] = {}
    for stage, events in (page.get("stages") or {}).items():
        for event in events if stage != "ingestor" else ():
            error = event.get("error") or {}
            rejected = event.get("kind") == "outcome" and event.get("status") == "REJECTED"
            if event.get("kind") == "dead" or (rejected and error.get("rule") != BLOCKED):
                table = str(event.get("stem") or "").rsplit("_", 4)[0]  # a stem is <dataset>_<date>_<time>_<id>_<part>
                where = f"{table} at the {stage}" if table else f"the {stage}"
                found[f"{where}: {error.get('message') or 'failed on every retry'}"] = None
    return list(found)


def _failed(table: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [check for check in table.get("checks") or () if not check.get("passed")]


# for people


def print_outcome(console: Console, document: Mapping[str, Any], *, every_check: bool) -> None:
    tables: Mapping[str, Mapping[str, Any]] = document["tables"]
    if tables:
        console.print(_grid(tables))
    for name, table in tables.items():
        for check in (table.get("checks") or ()) if every_check else _failed(table):
            _say(console, f"{name}: {_of_check(check)}", _style(check))
        told_of = table.get("load") is None or any(check.get("name") == "contract" for check in _failed(table))
        if told_of and (broken := table.get("broken_by")):
            rules = ", ".join(f"{rule} {count(rows)}" for rule, rows in broken.items())
            _say(console, f"{name}: rows that break the contract: {rules}", "yellow")
        if added := table.get("columns_added"):
            _say(console, f"{name}: new columns: {', '.join(map(str, added))}", "cyan")
        if changed := table.get("columns_changed"):
            told = ", ".join(f"{column} ({what})" for column, what in changed.items())
            _say(console, f"{name}: changed columns: {told}", "yellow")
        if table.get("rejected"):
            reason = table.get("reason")
            _say(console, f"{name}: rejected ({table['rejected']}){f': {reason}' if reason else ''}", "bold red")
    for rule, rows in sorted(document["quarantined_by_rule"].items(), key=lambda item: (-item[1], item[0])):
        _say(console, f"{count(rows)} rows in quarantine: {rule}", "yellow")
    console.print()
    console.print(_headline(document), soft_wrap=True)
    console.print(f"Run {document['run_id']}", style="dim", highlight=False)


def _grid(tables: Mapping[str, Mapping[str, Any]]) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column("table", no_wrap=True)
    grid.add_column("load")
    for name in ("rows", "deleted", "parts"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("checks")
    for name, table in tables.items():
        grid.add_row(
            name, _kind(table), *(count(table.get(n)) for n in ("rows", "deleted", "parts")), _of_checks(table)
        )
    return grid


def _kind(table: Mapping[str, Any]) -> Text:
    if table.get("rejected"):
        return Text("rejected", "bold red")
    if table.get("load") is None:
        return Text("only checked")
    if table.get("blocked"):
        return Text(f"{table.get('kind')}, blocked", "bold red")
    return Text(str(table.get("kind")) if table.get("parts") else "no changes")


def _of_checks(table: Mapping[str, Any]) -> Text:
    checks = table.get("checks") or ()
    failed = _failed(table)
    if not failed:
        return Text(f"{len(checks)} passed" if checks else "", "green")
    worst = "yellow" if all(check.get("on_failure") == WARN for check in failed) else "bold red"
    passed = f"{len(checks) - len(failed)} passed, " if len(checks) > len(failed) else ""
    return Text(f"{passed}{len(failed)} failed", worst)


def _of_check(check: Mapping[str, Any]) -> str:
    verdict = "passed" if check.get("passed") else f"failed ({check.get('on_failure')})"
    told = [f"{word} {_value(check[word])}" for word in ("found", "expected") if check.get(word) is not None]
    return f"check {check.get('name')} {verdict}{': ' if told else ''}{', '.join(told)}"


def _value(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _style(check: Mapping[str, Any]) -> str:
    if check.get("passed"):
        return "green"
    return "yellow" if check.get("on_failure") == WARN else "bold red"


def _headline(document: Mapping[str, Any]) -> Text:
    tables, took = document["tables"], seconds(document["seconds"])
    if not document["finished"]:
        return Text.assemble("Not finished yet: the run is ", state_text(document["state"]), ".")
    if not document["ok"]:
        told, more = document["problems"][:TOLD_MOST], len(document["problems"]) - TOLD_MOST
        rest = f"; and {count(more)} more" if more > 0 else ""
        return Text(f"Failed in {took}: {'; '.join(told)}{rest}", "bold red")
    what = plural(len(tables), "table")
    if all(table.get("load") is None for table in tables.values()):
        return Text(f"Checked: {what} in {took}; nothing was loaded.", "bold green")
    rows = sum(int(table.get("rows") or 0) for table in tables.values())
    deleted = sum(int(table.get("deleted") or 0) for table in tables.values())
    moved = f"{count(rows)} rows{f', {count(deleted)} of them deletions' if deleted else ''}" if rows else "no changes"
    return Text(f"Done: {what}, {moved}, in {took}.", "bold green")


def _say(console: Console, text: str, style: str) -> None:
    console.print(text, style=style, soft_wrap=True, markup=False, highlight=False)


# meanwhile


@contextmanager
def _view(console: Console) -> Iterator[View]:
    """Where the run is: a line that changes on a terminal, else one for each thing that is new."""
    if console.is_terminal:
        with console.status("asking ...") as status:
            yield _TablesView(console, status)
    else:
        yield _TablesView(console, None)


class _TablesView:
    def __init__(self, console: Console, status: Status | None) -> None:
        self._console = console
        self._status = status
        self._told = ""
        self._began = time.monotonic()

    def show(self, watched: Sequence[Watched]) -> None:
        text = _where_it_is(watched[0].page)
        if self._status is not None:
            self._status.update(Text(f"{text}  {seconds(time.monotonic() - self._began)}"))
        elif text != self._told:
            self.say(text)
        self._told = text

    def say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False, highlight=False)


def _where_it_is(page: Page) -> str:
    if not (tables := loaded(page)):
        return "reading the tables" if page.get("state") == "running" else "waiting for the ingestor"
    objects = int(page.get("raw_objects") or 0)
    came = f"{plural(len(tables), 'table')} read, {plural(objects, 'object')}"
    if page.get("finished"):
        return f"{came}: {page.get('state')}"
    return f"{came}, {count(int(page.get('pending') or 0))} to be worked on"
