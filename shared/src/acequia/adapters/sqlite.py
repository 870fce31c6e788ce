"""A bus in one SQLite file: what the embedded mode keeps its messages in.

The delivery rules are RabbitMQ's, as `topology` declares them there; `tests/contract` runs on both. What differs:

- Waiting on a rung of the retry ladder is a state of the row, not a queue of its own; `depth` tells it under the
  rung's name all the same.
- One process owns the file (SQLite's exclusive lock), so messages that are in somebody's hands at the start were so
  when the process before us died: they come again.

One thread writes. What was asked for while it wrote goes into the next transaction together, and is answered after its
commit. A transaction that publishes is synced to the disk (`synchronous=FULL`) before anyone is told. Taking and
settling survive a kill of the process, but are not synced: what a power failure loses of them comes again, which
"at least once" allows.
"""

import asyncio
import json
import logging
import queue as blocking
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from acequia.errors import AcequiaError, ConfigurationError, QueueFull, TransientFailure
from acequia.ports import Ack, Dead, Delivery, HandBack, Handler, Message, Retry, Settlement
from acequia.topology import Queue, Topology

log = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_WITHOUT_LADDER = 5.0
"""Seconds until a message comes again from a queue that has neither rungs nor a dead-letter queue."""
HAND_BACK_PAUSE = 0.2
"""Seconds until a message that was handed back comes again: a handler in trouble shall not spin."""
TROUBLE_PAUSE = 1.0
"""Seconds until a consumer asks again of a file that failed."""

ATTEMPT = "acequia-attempt"
ERROR = "acequia-error"
TRACEBACK = "acequia-traceback"
STAGE = "acequia-stage"
DIED_AT = "acequia-died-at"

_READY, _HELD, _WAITING = 0, 1, 2

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS exchanges (name TEXT PRIMARY KEY, type TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS queues (
    name TEXT PRIMARY KEY, stage TEXT NOT NULL, dead TEXT, retry_delays TEXT NOT NULL, delivery_limit INTEGER NOT NULL,
    rungs_of TEXT, most INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bindings (
    exchange TEXT NOT NULL, queue TEXT NOT NULL, routing_key TEXT NOT NULL, PRIMARY KEY (exchange, queue, routing_key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    state INTEGER NOT NULL,
    type TEXT NOT NULL,
    message_id TEXT NOT NULL,
    headers TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    deliveries INTEGER NOT NULL,
    due REAL,
    rung TEXT,
    body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS messages_by_queue ON messages (queue, state, id);
CREATE INDEX IF NOT EXISTS messages_by_due ON messages (due) WHERE state = {_WAITING};
"""


@dataclass(slots=True)
class _Job:
    act: Callable[[sqlite3.Connection], Any]
    synced: bool
    answer: "Future[Any]"


class _Writer:
    """The one thread that touches the file. Jobs that came while it wrote share the next transaction."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._jobs: blocking.SimpleQueue[_Job | None] = blocking.SimpleQueue()
        self._opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="sqlite-bus", daemon=True)
        self._closed = False

    async def start(self) -> None:
        self._thread.start()
        await asyncio.wrap_future(self._opened)

    async def do(self, act: Callable[[sqlite3.Connection], T], *, synced: bool = False) -> T:
        """Run `act` in a transaction; its result once that is committed."""
        if self._closed:
            raise TransientFailure("the bus is closed", dependency="bus", away=True)
        answer: Future[T] = Future()
        self._jobs.put(_Job(act, synced, answer))
        return await asyncio.wrap_future(answer)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        try:
            connection = _connect(self._path)
        except BaseException as error:  # noqa: BLE001 - whatever it is, who waits for the opening gets it
            self._opened.set_exception(_translated(error))
            return
        self._opened.set_result(None)
        try:
            last = False
            while not last:
                batch = []
                job = self._jobs.get()
                while True:
                    if job is None:
                        last = True
                    elif job.answer.set_running_or_notify_cancel():
                        batch.append(job)
                    if self._jobs.empty():
                        break
                    job = self._jobs.get()
                if batch:
                    self._transact(connection, batch)
        finally:
            connection.close()

    def _transact(self, connection: sqlite3.Connection, batch: Sequence[_Job]) -> None:
        try:
            synced = any(job.synced for job in batch)
            connection.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            results = [job.act(connection) for job in batch]
            connection.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001 - who asked gets it; this thread must live on
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if len(batch) > 1:
                for job in batch:  # one bad job must not spoil the others
                    self._transact(connection, [job])
            else:
                batch[0].answer.set_exception(_translated(error))
            return
        for job, result in zip(batch, results, strict=True):
            job.answer.set_result(result)


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=0.5, isolation_level=None)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("COMMIT")
        connection.executescript(_SCHEMA)
        there = {row[1] for row in connection.execute("PRAGMA table_info(queues)")}
        for column, kind in (("rungs_of", "TEXT"), ("most", "INTEGER")):  # a file from before they were there
            if column not in there:
                connection.execute(f"ALTER TABLE queues ADD COLUMN {column} {kind}")
    except BaseException:
        connection.close()
        raise
    return connection


_FOR_A_PERSON = frozenset(
    {
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_CORRUPT,
    }
)


def _translated(error: BaseException) -> BaseException:
    """SQLite's errors, named by what follows from them."""
    match error:
        case sqlite3.Error():
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                named: BaseException = ConfigurationError("the bus's file is in use by another process: one owns it")
            elif code in _FOR_A_PERSON:
                named = ConfigurationError(f"the bus's file: {error}")
            else:
                full = code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
                named = TransientFailure(f"the bus's file: {error}", dependency="disk" if full else "bus")
        case PermissionError():
            named = ConfigurationError(f"the bus's file: {error}")
        case OSError():
            named = TransientFailure(f"the bus's file: {error}", dependency="disk")
        case _:
            return error
    named.__cause__ = error
    return named


def _topic_matches(pattern: Sequence[str], key: Sequence[str]) -> bool:
    """AMQP's topic rule: `*` is one word, `#` any number of words."""
    if not pattern:
        return not key
    if pattern[0] == "#":
        return any(_topic_matches(pattern[1:], key[n:]) for n in range(len(key) + 1))
    return bool(key) and pattern[0] in ("*", key[0]) and _topic_matches(pattern[1:], key[1:])


@dataclass(frozen=True, slots=True)
class _Taken:
    id: int
    delivery: Delivery


class SqliteBus:
    """`acequia.ports.Bus` in a file that one process owns."""

    def __init__(self, writer: _Writer) -> None:
        self._writer = writer
        self._exchanges: dict[str, str] = {}
        self._queues: dict[str, Queue] = {}
        self._bindings: set[tuple[str, str, str]] = set()
        self._subscriptions: set[_Subscription] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._closed = False

    @classmethod
    async def open(cls, path: Path) -> "SqliteBus":
        """Take the file `path` (made where it is missing). What was in somebody's hands is ready again.

        Raises ConfigurationError where another process has it.
        """
        writer = _Writer(path)
        await writer.start()
        bus = cls(writer)
        try:
            due = await writer.do(bus._restore, synced=True)
        except BaseException:
            await writer.close()
            raise
        bus._set_alarm(due)
        return bus

    async def publish(self, exchange: str, routing_key: str, message: Message) -> None:
        queues = self._route(exchange, routing_key)
        if not queues:
            raise TransientFailure(
                f"no queue takes {routing_key!r} of the exchange {exchange!r}: is the topology applied?",
                dependency="bus",
            )

        def insert(connection: sqlite3.Connection) -> None:
            for name in queues:
                if (most := self._queues[name].most) is not None and _ready(connection, name, most):
                    raise QueueFull(f"{name} is full: {most} messages wait", dependency="bus")
                _insert(connection, self._queues[name], message)

        await self._writer.do(insert, synced=True)
        self._wake(queues)

    async def consume(self, queue: str, handler: Handler, *, concurrency: int) -> "_Subscription":
        self._known(queue)
        subscription = _Subscription(self, queue, handler, concurrency)
        self._subscriptions.add(subscription)
        return subscription

    async def depth(self, queue: str) -> int:
        """As the port says; the name of a rung (`Queue.retry_queue`) counts what waits there."""
        if queue in self._queues:
            where, values = "queue = ? AND state = ?", (queue, _READY)
        elif any(queue in q.rungs for q in self._queues.values()):
            where, values = "rung = ? AND state = ?", (queue, _WAITING)
        else:
            raise ConfigurationError(f"there is no queue {queue!r}: apply the topology first")

        def count(connection: sqlite3.Connection) -> int:
            return int(connection.execute(f"SELECT count(*) FROM messages WHERE {where}", values).fetchone()[0])  # noqa: S608

        return await self._writer.do(count)

    async def apply(self, topology: Topology) -> None:
        for exchange in topology.exchanges:
            if exchange.type not in ("topic", "direct", "fanout"):
                raise ConfigurationError(f"exchange {exchange.name!r}: unknown type {exchange.type!r}")
            if (known := self._exchanges.get(exchange.name, exchange.type)) != exchange.type:
                raise ConfigurationError(f"exchange {exchange.name!r} is {known!r}, not {exchange.type!r}")
        for queue in topology.queues:
            there = self._queues.get(queue.name, queue)
            if (there.dead, there.delivery_limit) != (queue.dead, queue.delivery_limit):
                raise ConfigurationError(
                    f"queue {queue.name!r} exists with other arguments: dead-letter queue {there.dead!r}, delivery "
                    f"limit {there.delivery_limit}; wanted: {queue.dead!r}, {queue.delivery_limit}"
                )
        names = {e.name for e in topology.exchanges} | set(self._exchanges)
        queues = {q.name for q in topology.queues} | set(self._queues)
        for queue in topology.queues:
            if queue.dead is not None and queue.dead not in queues:
                raise ConfigurationError(f"queue {queue.name!r}: there is no dead-letter queue {queue.dead!r}")
        for binding in topology.bindings:
            if binding.exchange not in names or binding.queue not in queues:
                raise ConfigurationError(f"{binding} binds what does not exist")

        def declare(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "INSERT OR IGNORE INTO exchanges VALUES (?, ?)", [(e.name, e.type) for e in topology.exchanges]
            )
            connection.executemany(
                "INSERT OR REPLACE INTO queues VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (q.name, q.stage, q.dead, json.dumps(q.retry_delays), q.delivery_limit, q.rungs_of, q.most)
                    for q in topology.queues
                ],
            )
            connection.executemany(
                "INSERT OR IGNORE INTO bindings VALUES (?, ?, ?)",
                [(b.exchange, b.queue, b.routing_key) for b in topology.bindings],
            )

        await self._writer.do(declare, synced=True)
        self._exchanges.update({e.name: e.type for e in topology.exchanges})
        self._queues.update({q.name: q for q in topology.queues})
        self._bindings.update((b.exchange, b.queue, b.routing_key) for b in topology.bindings)

    async def check(self) -> None:
        await self._writer.do(lambda connection: connection.execute("SELECT 1").fetchone())

    async def close(self) -> None:
        """Hand back what is in hand, and let go of the file. A second call does nothing."""
        for subscription in list(self._subscriptions):
            await subscription.close(grace=0)
        self._closed = True
        if self._alarm is not None:
            self._alarm.cancel()
        if self._background:
            await asyncio.wait(set(self._background))
        await self._writer.close()

    def _known(self, name: str) -> Queue:
        try:
            return self._queues[name]
        except KeyError:
            raise ConfigurationError(f"there is no queue {name!r}: apply the topology first") from None

    def _route(self, exchange: str, routing_key: str) -> set[str]:
        if exchange == "":
            return {routing_key} & self._queues.keys()
        kind = self._exchanges.get(exchange)
        words = routing_key.split(".")
        return {
            queue
            for source, queue, pattern in self._bindings
            if source == exchange
            and (
                kind == "fanout"
                or (kind == "direct" and pattern == routing_key)
                or (kind == "topic" and _topic_matches(pattern.split("."), words))
            )
        }

    def _wake(self, queues: set[str]) -> None:
        for subscription in self._subscriptions:
            if subscription.queue in queues:
                subscription.wake()

    # delayed messages

    def _set_alarm(self, due: float | None) -> None:
        """Promote what waits at `due` (seconds since the epoch), or earlier where an alarm stands already."""
        if due is None or self._closed:
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + max(0.0, due - time.time())
        if self._alarm is not None:
            if self._alarm.when() <= at:
                return
            self._alarm.cancel()
        self._alarm = loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        task = asyncio.create_task(self._promote())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _promote(self) -> None:
        def promote(connection: sqlite3.Connection) -> tuple[set[str], float | None]:
            rows = connection.execute(
                "UPDATE messages SET state = ?, due = NULL, rung = NULL WHERE state = ? AND due <= ? RETURNING queue",
                (_READY, _WAITING, time.time()),
            ).fetchall()
            return {queue for (queue,) in rows}, _next_due(connection)

        try:
            queues, due = await self._writer.do(promote)
        except AcequiaError as error:
            log.warning("delayed messages wait a little longer: %s", error)
            queues, due = set(), time.time() + 1
            if isinstance(error, TransientFailure) and error.away:
                return  # closed
        self._wake(queues)
        self._set_alarm(due)

    # what follows runs in the writer's thread

    def _restore(self, connection: sqlite3.Connection) -> float | None:
        self._exchanges = dict(connection.execute("SELECT name, type FROM exchanges"))
        self._bindings = set(connection.execute("SELECT exchange, queue, routing_key FROM bindings"))
        self._queues = {
            name: Queue(name, stage, dead, tuple(json.loads(delays)), limit, rungs_of, most)
            for name, stage, dead, delays, limit, rungs_of, most in connection.execute(
                "SELECT name, stage, dead, retry_delays, delivery_limit, rungs_of, most FROM queues"
            )
        }
        for (id_,) in connection.execute("SELECT id FROM messages WHERE state = ?", (_HELD,)).fetchall():
            self._return(connection, id_, after=0)
        return _next_due(connection)

    def _take(self, connection: sqlite3.Connection, queue: str, count: int) -> list[_Taken]:
        rows = connection.execute(
            "SELECT id, type, message_id, headers, attempt, deliveries, body FROM messages"
            " WHERE queue = ? AND state = ? ORDER BY id LIMIT ?",
            (queue, _READY, count),
        ).fetchall()
        connection.executemany(
            "UPDATE messages SET state = ?, deliveries = deliveries + 1 WHERE id = ?", [(_HELD, row[0]) for row in rows]
        )
        return [
            _Taken(
                id_,
                Delivery(
                    queue=queue,
                    message=Message(body=body, type=type_, message_id=message_id, headers=json.loads(headers)),
                    attempt=attempt,
                    redelivered=deliveries > 0,
                ),
            )
            for id_, type_, message_id, headers, attempt, deliveries, body in rows
        ]

    def _settle(
        self, connection: sqlite3.Connection, taken: _Taken, settlement: Settlement, after: float
    ) -> float | None:
        """Returns when the message is due, if it waits now. `after`: seconds until one handed back comes again."""
        delivery = taken.delivery
        queue = self._queues[delivery.queue]
        match settlement:
            case Ack():
                connection.execute("DELETE FROM messages WHERE id = ?", (taken.id,))
            case HandBack():
                return self._return(connection, taken.id, after=after)
            case Retry(reason=reason, traceback=traceback) | Dead(reason=reason, traceback=traceback):
                if isinstance(settlement, Retry) and delivery.attempt <= len(queue.retry_delays):
                    delay = queue.retry_delays[delivery.attempt - 1]
                    return self._wait(
                        connection, taken.id, queue, delay, delivery.attempt + 1, queue.retry_queue(delay)
                    )
                if queue.dead is None:
                    return self._wait(connection, taken.id, queue, RETRY_WITHOUT_LADDER, delivery.attempt, None)
                self._bury(connection, taken.id, queue, reason, traceback)
        return None

    def _return(self, connection: sqlite3.Connection, id_: int, *, after: float) -> float | None:
        """Back into its queue; into the dead-letter queue where that happened too often. Returns when it is due."""
        name, deliveries = connection.execute("SELECT queue, deliveries FROM messages WHERE id = ?", (id_,)).fetchone()
        queue = self._queues[name]
        if queue.dead is not None and deliveries > queue.delivery_limit:
            self._bury(connection, id_, queue, f"delivery limit reached: handed back {deliveries} times", "")
            return None
        due = time.time() + after if after else None
        connection.execute(
            "UPDATE messages SET state = ?, due = ? WHERE id = ?", (_WAITING if after else _READY, due, id_)
        )
        return due

    @staticmethod
    def _wait(
        connection: sqlite3.Connection, id_: int, queue: Queue, delay: float, attempt: int, rung: str | None
    ) -> float:
        due = time.time() + delay
        connection.execute(
            "UPDATE messages SET queue = ?, state = ?, due = ?, rung = ?, attempt = ?, deliveries = 0 WHERE id = ?",
            (queue.rungs_of or queue.name, _WAITING, due, rung, attempt, id_),
        )
        return due

    @staticmethod
    def _bury(connection: sqlite3.Connection, id_: int, queue: Queue, reason: str, traceback: str) -> None:
        headers, attempt = connection.execute("SELECT headers, attempt FROM messages WHERE id = ?", (id_,)).fetchone()
        told = {
            ERROR: reason,
            TRACEBACK: traceback,
            STAGE: queue.stage,
            ATTEMPT: str(attempt),
            DIED_AT: datetime.now(UTC).isoformat(),
        }
        connection.execute(
            "UPDATE messages SET queue = ?, state = ?, headers = ?, attempt = 1, deliveries = 0 WHERE id = ?",
            (queue.dead, _READY, json.dumps({**json.loads(headers), **told}), id_),
        )


def _insert(connection: sqlite3.Connection, queue: Queue, message: Message) -> None:
    headers = dict(message.headers)
    attempt = 1
    if queue.dead is not None:  # as on RabbitMQ, where the attempt is a header; a dead letter keeps it to be read
        counted = headers.pop(ATTEMPT, "")
        attempt = max(1, int(counted)) if counted.isascii() and counted.isdigit() else 1
    connection.execute(
        "INSERT INTO messages (queue, state, type, message_id, headers, attempt, deliveries, body)"
        " VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
        (queue.name, _READY, message.type, message.message_id, json.dumps(headers), attempt, message.body),
    )


def _ready(connection: sqlite3.Connection, queue: str, count: int) -> bool:
    """Whether at least `count` messages lie in the queue."""
    return bool(
        connection.execute(
            "SELECT 1 FROM messages WHERE queue = ? AND state = ? LIMIT 1 OFFSET ?", (queue, _READY, count - 1)
        ).fetchone()
    )


def _next_due(connection: sqlite3.Connection) -> float | None:
    due = connection.execute("SELECT min(due) FROM messages WHERE state = ?", (_WAITING,)).fetchone()[0]
    return None if due is None else float(due)


class _Subscription:
    """One consumer of a queue."""

    def __init__(self, bus: SqliteBus, queue: str, handler: Handler, concurrency: int) -> None:
        if concurrency < 1:
            raise ValueError("concurrency is at least 1")
        self.queue = queue
        self._bus = bus
        self._handler = handler
        self._concurrency = concurrency
        self._in_hand: set[asyncio.Task[None]] = set()
        self._paused = False
        self._closing = False
        self._hand_out = asyncio.Lock()
        self._signal = asyncio.Event()
        self._signal.set()
        self._taking = asyncio.create_task(self._take_all(), name=f"consume {queue}")

    def wake(self) -> None:
        self._signal.set()

    async def pause(self) -> None:
        self._paused = True
        async with self._hand_out:
            return  # what was being taken is in the handler's hands now

    async def resume(self) -> None:
        self._paused = False
        self.wake()

    async def close(self, *, grace: float) -> None:
        self._closing = True
        self.wake()
        await asyncio.wait([self._taking])
        await asyncio.sleep(0)  # a task that is cancelled before its first step would never settle its message
        if self._in_hand and grace > 0:
            await asyncio.wait(set(self._in_hand), timeout=grace)
        left = set(self._in_hand)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        self._bus._subscriptions.discard(self)

    async def _take_all(self) -> None:
        while not self._closing:
            await self._signal.wait()
            self._signal.clear()
            while not (self._paused or self._closing) and len(self._in_hand) < self._concurrency:
                try:
                    async with self._hand_out:
                        more = await self._take()
                except (TransientFailure, ConfigurationError) as failure:
                    log.warning("no messages of %s for a moment: %s", self.queue, failure)
                    await asyncio.sleep(TROUBLE_PAUSE)
                    continue
                if not more:
                    break

    async def _take(self) -> bool:
        """Hand out what fits. False where the queue had no more than that."""
        free = self._concurrency - len(self._in_hand)
        taken = await self._bus._writer.do(lambda connection: self._bus._take(connection, self.queue, free))
        for one in taken:
            task = asyncio.create_task(self._handle(one), name=f"handle {self.queue}")
            self._in_hand.add(task)
            task.add_done_callback(self._done)
        return len(taken) == free

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._in_hand.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error(
                "a message of %s could not be settled, it comes again at the next start", self.queue, exc_info=error
            )
        self.wake()

    async def _handle(self, taken: _Taken) -> None:
        settlement: Settlement = HandBack()
        try:
            settlement = await self._handler(taken.delivery)
        except asyncio.CancelledError:
            log.info("handed back: a message of %s was in hand at the end", self.queue)
        except Exception:
            log.exception("a handler of %s raised; the message is handed back", self.queue)
        after = 0 if self._closing else HAND_BACK_PAUSE
        while True:
            try:
                due = await self._bus._writer.do(
                    lambda connection: self._bus._settle(connection, taken, settlement, after)
                )
                break
            except (TransientFailure, ConfigurationError) as failure:
                if self._closing:
                    raise
                log.warning("a message of %s is settled in a moment: %s", self.queue, failure)
                await asyncio.sleep(TROUBLE_PAUSE)
        if due is not None:
            self._bus._set_alarm(due)
        elif not isinstance(settlement, Ack):
            dead = self._bus._queues[self.queue].dead
            self._bus._wake({self.queue, dead} if dead else {self.queue})
