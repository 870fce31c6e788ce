"""DuckDB as Acequia uses it: it reads the listed objects, spills where it is told to, and reaches nothing else."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import duckdb
from rich.console import Console

from acequia.errors import TransientFailure
from acequia_cli.complaints import CommandFailed, Complaint, WrongUse
from acequia_cli.relations import text
from acequia_cli.stored import PROTOCOL, SnapshotFiles

ATTEMPTS = 3
"""How often a query is begun where objects vanish between the look at them and the read: a compaction, an expiry."""
INTERRUPT_EVERY = 0.2
PROGRESS_EVERY = 0.5
MEMORY = "50%"
"""Of the machine's: Acequia may be at work beside it. What needs more spills to a temporary folder."""
WRONG_USE = (
    duckdb.ParserException,
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.NotImplementedException,
    duckdb.PermissionException,
    duckdb.SyntaxException,
)

T = TypeVar("T")


class Stopped(Complaint):
    """By Ctrl-C or SIGTERM."""

    exit_code = 130


class Vanished(Exception):
    """An object was there when the query began, and is not any more."""


@contextmanager
def open_engine(
    files: SnapshotFiles, *, memory: str, temp: Path, database: Path | None = None, writes: Path | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """An engine that sees `files`, no file of this machine but `writes`, no network, no extension, no Python variable.

    `database`: a DuckDB file that is made; else it works in memory. `temp`: for what `memory` does not hold.
    """
    try:
        engine = duckdb.connect(
            str(database) if database else ":memory:",
            config={
                "memory_limit": memory,
                "temp_directory": str(temp / "spill"),
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "allow_community_extensions": "false",
                "allow_persistent_secrets": "false",
                "python_enable_replacements": "false",
            },
        )
    except (duckdb.InvalidInputException, duckdb.ParserException) as error:
        raise WrongUse(f"--memory-limit {memory}: {first_line(error)}") from error
    try:
        engine.register_filesystem(files)
        engine.execute("SET TimeZone = 'UTC'")
        engine.execute("SET validate_external_file_cache = 'NO_VALIDATION'")  # objects never change
        engine.execute(f"SET allowed_directories = ['{PROTOCOL}://']")
        if writes is not None:
            engine.execute(f"SET allowed_paths = [{text(str(writes))}]")
        engine.execute("SET enable_external_access = false")
        engine.execute("SET lock_configuration = true")
        yield engine
    finally:
        engine.close()


@contextmanager
def telling_when_stopped(words: str) -> Iterator[None]:
    """A cancel as the line that a person reads."""
    try:
        yield
    except asyncio.CancelledError:
        raise Stopped(words) from None


async def in_thread(engine: duckdb.DuckDBPyConnection, work: Callable[[], T]) -> T:
    """`work` in a thread, with a sign of how far it is on a terminal. A cancel interrupts it and waits for its end,
    however often it comes."""
    console = Console(stderr=True)
    # no task: a second Ctrl-C cancels all of those, and the thread would go on unseen
    running = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        await asyncio.wait([running], timeout=PROGRESS_EVERY)
        if console.is_terminal and not running.done():
            with console.status("...") as status:
                while not running.done():
                    share = engine.query_progress()
                    status.update(f"{share:.0f} %" if share > 0 else "...")
                    await asyncio.wait([running], timeout=PROGRESS_EVERY)
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            engine.interrupt()
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running], timeout=INTERRUPT_EVERY)
        if not running.cancelled():
            running.exception()
        raise


@contextmanager
def explained(files: SnapshotFiles) -> Iterator[None]:
    """DuckDB's errors, and those of the files below it, as one line; Vanished where an object went."""
    files.gone, files.trouble = None, None
    try:
        yield
    except duckdb.Error as error:
        if files.gone is not None:
            raise Vanished(files.gone) from error
        if files.trouble is not None:
            raise CommandFailed(f"an object could not be read: {str(files.trouble).partition(chr(10))[0]}") from error
        kind = WrongUse if isinstance(error, WRONG_USE) else CommandFailed
        raise kind(first_line(error)) from error


def first_line(error: Exception) -> str:
    """What DuckDB says, without the excerpt of the statement that follows."""
    said = str(error).split("\n\nLINE ")[0].strip()
    return " ".join(line.strip() for line in said.splitlines())


async def until_whole(attempt: Callable[[], Awaitable[T]]) -> T:
    """The result of an attempt during which nothing vanished."""
    for _ in range(ATTEMPTS - 1):
        with suppress(Vanished, FileNotFoundError):
            return await _attempted(attempt)
    try:
        return await _attempted(attempt)
    except (Vanished, FileNotFoundError) as error:
        raise CommandFailed(
            f"objects go while they are read ({error}), {ATTEMPTS} times in a row: try again once that is over"
        ) from error


async def _attempted(attempt: Callable[[], Awaitable[T]]) -> T:
    try:
        return await attempt()
    except TransientFailure as failure:
        if isinstance(failure.__cause__, FileNotFoundError):  # a file of a table's metadata
            raise Vanished(str(failure)) from failure
        raise
