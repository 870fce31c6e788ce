"""What a person sees while a run goes through the chain: a live table on a terminal, a line per step elsewhere."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from acequia_cli.chain import STAGES, Step, chain
from acequia_cli.chain import Progress as Went
from acequia_cli.follow import View, Watched

SHOWN_MOST = 20
"""Runs in the live table; the others are counted below it."""

STYLES = {
    Went.WAITING: "dim",
    Went.RUNNING: "cyan",
    Went.RETRYING: "yellow",
    Went.DONE: "green",
    Went.SAME_CONTENT: "green",
    Went.REJECTED: "red",
    Went.FAILED: "red",
    Went.NOT_REACHED: "dim",
}


def count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def plural(number: int, word: str) -> str:
    return f"{count(number)} {word}{'' if number == 1 else 's'}"


def seconds(number: float | None) -> str:
    return "" if number is None else f"{number:.2f} s"


@contextmanager
def open_view(console: Console) -> Iterator[View]:
    """The view that fits where `console` writes to."""
    if not console.is_terminal:
        yield LineView(console)
        return
    with Live(console=console, refresh_per_second=12, transient=False) as live:
        yield LiveView(live)


class LineView:
    """A line for each step as it ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: set[tuple[str, str]] = set()

    def show(self, watched: Sequence[Watched]) -> None:
        for one in watched:
            if not one.page:
                continue
            alone = len(watched) == 1
            for step in chain(one.page):
                if step.ended and (one.run_id, step.name) not in self._told:
                    self._told.add((one.run_id, step.name))
                    if alone or step.progress is not Went.NOT_REACHED:
                        self.say(_line(step) if alone else f"{one.label}  {_line(step)}")

    def say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False, highlight=False)


def _line(step: Step) -> str:
    rows = f"{step.rows:,} rows" if step.rows is not None else ""
    return f"{step.name:<10} {step.progress:<12} {rows:>16} {seconds(step.seconds):>10}  {step.detail}".rstrip()


class LiveView:
    """A table that changes in its place."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._since: dict[str, float] = {}

    def show(self, watched: Sequence[Watched]) -> None:
        seen = [one for one in watched if one.page]
        if seen:
            self._live.update(self._one(seen[0]) if len(watched) == 1 else self._many(seen, len(watched)))

    def say(self, text: str) -> None:
        self._live.console.print(text, style="yellow", markup=False, highlight=False)

    def _one(self, one: Watched) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("stage")
        table.add_column("status")
        table.add_column("rows", justify="right")
        table.add_column("time", justify="right")
        table.add_column("")
        for step in chain(one.page):
            took = step.seconds
            if step.progress in (Went.RUNNING, Went.RETRYING):
                now = time.monotonic()
                took = now - self._since.setdefault(step.name, now)
            table.add_row(step.name, _status(step), count(step.rows), seconds(took), Text(step.detail, "dim"))
        return table

    def _many(self, seen: Sequence[Watched], of: int) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("source")
        for name in STAGES:
            table.add_column(name)
        table.add_column("rows", justify="right")
        # what is still under way is what is worth looking at
        shown = sorted(seen, key=lambda one: one.finished)[:SHOWN_MOST]
        for one in shown:
            table.add_row(one.label, *(_status(step) for step in chain(one.page)), count(one.page.get("rows_in")))
        finished = sum(one.finished for one in seen)
        table.caption = f"{finished} of {of} finished"
        return table


def _status(step: Step) -> Text:
    return Text(str(step.progress), STYLES[step.progress])


@contextmanager
def sending(console: Console, label: str, size: int) -> Iterator[Progress]:
    """A bar for an upload of `size` bytes; task 0."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(f"sending {label}", total=size or None)
        yield progress


Tick = Callable[[str, str], None]
"""Called with a subject and how far it is."""


@contextmanager
def ticking() -> Iterator[Tick]:
    """Where long work is, on standard error: a line that changes on a terminal, else one as each subject ends."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("...") as status:
            yield lambda subject, text: status.update(Text(f"{subject}  {text}"))
        return
    last: list[str] = []

    def tick(subject: str, text: str) -> None:
        if last and last[0] != subject:
            tell()
        last[:] = subject, text

    def tell() -> None:
        console.print("  ".join(last), soft_wrap=True, markup=False, highlight=False)

    try:
        yield tick
    finally:
        if last:
            tell()
