"""One read-only snapshot of a source database, over ADBC. Its errors are translated here, and only here."""

import math
import re
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.resources import files
from threading import Event
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import polars as pl
import pyarrow as pa

from acequia.errors import AcequiaError, RejectedInput, TransientFailure

SOURCE = "source"
"""The dependency that a source database is, in what is told of its failures."""
APPLICATION = "acequia"

_REFUSED = ("28", "3D")  # authorization, no such database
_GONE = ("08", "53", "57P", "58", "40", "25006")  # connection, resources, shutdown, system, conflicts with recovery
_FATAL = (
    "does not exist",
    "authentication failed",
    "no pg_hba.conf entry",
    "is not permitted to log in",
    "no password supplied",
    "does not support SSL",
    "certificate",
    # a server may speak Spanish before it knows who asks
    "no existe",
    "autentificación",
    "no hay una línea en pg_hba.conf",
)
_DSN = re.compile(
    r"connection info string|connection option|in URI|invalid URI|percent-encoded|invalid port number"
    r"|invalid \w+ value|could not match|definition of service"
)
_TRIED = ("connection to server", "could not translate host name")
"""What libpq says once it has understood the DSN."""

_CHECK = "Check ACEQUIA_SOURCE_POSTGRES_DSN, or that of the named connection"

_WAITS = {"connect_timeout": 15, "keepalives_idle": 60, "keepalives_interval": 15, "keepalives_count": 4}
"""libpq's, in seconds: a server that is gone is noticed while a message is in hand."""


def query(name: str) -> str:
    """The text of `queries/<name>.sql`."""
    return (files("acequia_ingestor.tables") / "queries" / f"{name}.sql").read_text()


def quoted(name: str) -> str:
    """An identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string; `standard_conforming_strings` is on in our sessions."""
    return "'" + text.replace("'", "''") + "'"


class Snapshot:
    """A read-only, repeatable-read transaction: all that is asked in it sees the same rows. For one thread."""

    def __init__(self, connection: Any, timeout: float, ends: float) -> None:
        """`timeout`: seconds of one statement. `ends`: on the monotonic clock; no statement runs longer than that."""
        self._connection = connection
        self._timeout = timeout
        self._ends = ends

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """All rows of a small answer. Raises as `translated` says."""
        with self._asking() as cursor:
            cursor.execute(sql)
            found: list[dict[str, Any]] = cursor.fetch_arrow_table().to_pylist()
            return found

    def row(self, sql: str) -> dict[str, Any]:
        return self.rows(sql)[0]

    def value(self, sql: str) -> Any:
        """The first column of the first row; None where there is no row."""
        found = self.rows(sql)
        return next(iter(found[0].values())) if found else None

    def do(self, sql: str) -> None:
        with self._asking() as cursor:
            cursor.execute(sql)

    def stream(self, sql: str, stop: Event | None = None) -> Generator[pl.DataFrame]:
        """The rows in frames of a few MiB. Closing the iterator, or `stop`, ends the query; the snapshot lives on.

        TransientFailure where `stop` was set.
        """
        self.do("SAVEPOINT streaming")
        with self._asking() as cursor:
            ended = False
            try:
                cursor.execute(sql)
                reader = cursor.fetch_record_batch()
                while True:
                    try:
                        batch = reader.read_next_batch()
                    except StopIteration:
                        break
                    if stop is not None and stop.is_set():
                        raise TransientFailure("stopped while a table was read", dependency="process")
                    if batch.num_rows:
                        yield _frame(batch)
                ended = True
            finally:
                if not ended:
                    self._abandon(cursor)
        self.do("RELEASE streaming")

    def _abandon(self, cursor: Any) -> None:
        """End a query that is not read to its end, so that the snapshot can be asked further."""
        try:
            cursor.adbc_cancel()
            cursor.close()
            with self._connection.cursor() as again:
                again.execute("ROLLBACK TO streaming")
        except (adbc.Error, OSError, pa.ArrowException):
            return  # the connection is gone, or its error is on its way already: the next question tells

    @contextmanager
    def _asking(self) -> Iterator[Any]:
        began = time.monotonic()
        left = max(self._ends - began, 0.001)
        cursor = self._connection.cursor()
        try:
            if left < self._timeout:
                cursor.execute(f"SET statement_timeout = {math.ceil(left * 1000)}")
            yield cursor
        except (adbc.Error, OSError, pa.ArrowException) as error:
            allowed = min(self._timeout, left)
            late = time.monotonic() - began >= allowed * 0.95
            raise translated(error, timeout=allowed if late else None) from error
        finally:
            cursor.close()


@contextmanager
def open_snapshot(
    dsn: str, *, statement_timeout: float, ends: float = math.inf, first: Sequence[str] = ()
) -> Iterator[tuple[Snapshot, list[Any]]]:
    """A snapshot, and what each of the questions `first`, asked before it was taken, was answered with.

    `statement_timeout`: seconds; 0: none. `ends`: when all has to be asked, on the monotonic clock. TransientFailure
    (`source`) where the server can't be reached.
    """
    try:
        connection = adbc.connect(_patient(dsn), autocommit=True)
    except (adbc.Error, OSError, pa.ArrowException) as error:
        raise _not_connected(error) from None  # the error may quote the DSN
    try:
        snapshot = Snapshot(connection, statement_timeout or math.inf, ends)
        snapshot.do(f"SET application_name = {literal(APPLICATION)}")
        snapshot.do("SET TimeZone = 'UTC'")
        snapshot.do("SET IntervalStyle = 'iso_8601'")
        snapshot.do("SET DateStyle = 'ISO'")
        snapshot.do("SET extra_float_digits = 1")
        snapshot.do("SET standard_conforming_strings = on")
        snapshot.do(f"SET statement_timeout = {int(statement_timeout * 1000)}")
        answers = [snapshot.value(sql) for sql in first]
        snapshot.do("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield snapshot, answers
    finally:
        with suppress(adbc.Error, OSError, RuntimeError):  # what broke the connection is on its way
            connection.close()


def _patient(dsn: str) -> str:
    """The DSN with an end to waiting for a server that does not answer, unless it says of itself how long."""
    told = [f"{name}={value}" for name, value in _WAITS.items() if name not in dsn]
    if "://" in dsn:
        return dsn + ("&" if "?" in dsn else "?") + "&".join(told) if told else dsn
    return " ".join([dsn, *told])


def _not_connected(error: Exception) -> AcequiaError:
    """What follows where there is no connection. libpq quotes what it does not understand of a DSN, which may be the
    password: that is not repeated."""
    said = " ".join(str(error).split())
    _, libpq, rest = said.partition("Failed to connect: ")
    said = rest if libpq else said
    tried = any(word in said for word in _TRIED)
    what = said if tried and "@" not in said else re.sub('".*"', '"..."', said)
    if _DSN.search(said) if not tried else "host name" in said and "@" in said:
        return RejectedInput(
            "source_refused",
            f"the source's DSN can't be understood ({what}). It is postgresql://user:password@host:5432/database, and "
            f"in the password each of @ : / ? # % as a percent code (@ is %40). {_CHECK}",
        )
    if any(word in said for word in _FATAL):
        return RejectedInput("source_refused", f"the source does not let us in: {what}. {_CHECK}")
    return TransientFailure(f"the source database: {what}", dependency=SOURCE)


def translated(  # noqa: PLR0911 - a table of errors
    error: Exception, *, timeout: float | None = None
) -> AcequiaError:
    """What follows from an error of the source's.

    `timeout`: the statement had run for as long as it may: its end is laid to that where the server's words, which may
    be in any language, do not tell.
    """
    state = getattr(error, "sqlstate", None) or ""
    said = " ".join(str(error).split("Query was:")[0].split())[:500]
    if state == "57014" or "due to statement timeout" in said or (timeout is not None and not state):
        return RejectedInput(
            "statement_timeout",
            f"a statement at the source ran into its timeout ({said}). Give it more time "
            "(ACEQUIA_SOURCE_POSTGRES_STATEMENT_TIMEOUT; a delivery has 25 minutes for all of them), or an index on "
            "the cursor column and the key",
        )
    if state in ("42P01", "3F000"):
        return RejectedInput("unknown_table", f"the source has no such table: {said}")
    if state == "42501":
        return RejectedInput(
            "missing_permission", f"the source's role may not read this: {said}. GRANT SELECT on it to the role"
        )
    if state == "42703":
        return RejectedInput("unknown_column", f"the source has no such column: {said}")
    if state.startswith(_REFUSED):
        return RejectedInput("source_refused", f"the source does not let us in: {said}. {_CHECK}")
    if not state or state.startswith(_GONE):
        return TransientFailure(f"the source database: {said}", dependency=SOURCE)
    return RejectedInput("source_error", f"the source answers with an error: {said}", sqlstate=state)


def _frame(batch: pa.RecordBatch) -> pl.DataFrame:
    frame = pl.from_arrow(batch)
    assert isinstance(frame, pl.DataFrame)
    return frame
