"""The composition root of a service: settings, adapters, the FastAPI app with /health, /ready and /metrics, its life.

The one place inside the framework that knows the adapters. Importing it does nothing.
"""

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, NoReturn, Protocol

import uvicorn
import uvloop
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic_settings import BaseSettings
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from acequia.adapters.minio import MinioStore
from acequia.adapters.rabbit import RabbitBus
from acequia.batches import BatchRunner
from acequia.datasets import load_registry
from acequia.errors import AcequiaError, ConfigurationError, RejectedInput, TransientFailure
from acequia.ports import Bus, Delivery, Handler, ObjectStore, Settlement, Subscription
from acequia.runner import Meters, StageRunner, Workshop, clear_folders
from acequia.settings import AcequiaSettings, MinioSettings, RabbitSettings, check, load
from acequia.stage import BatchStage, Stage
from acequia.topology import READERS, replay_queue, topology

log = logging.getLogger("acequia")

RETRY_AFTER = "5"
"""Seconds after which a client may try again, as the header `Retry-After` says it."""
NDJSON = "application/x-ndjson"
REPLAY_LOOK_SECONDS, REPLAY_TURN_SECONDS = 3.0, 0.5
"""Seconds between two looks at a replay queue: while it is empty, and while something lies in it."""
BATCH_CONCURRENCY = 1000
"""Messages that a many-to-one stage holds at once while it gathers."""


# problems (RFC 9457)


class Problem(HTTPException):
    """An answer that says what is wrong and what is allowed, as application/problem+json."""

    def __init__(self, status: int, title: str, detail: str, **more: Any) -> None:
        super().__init__(status_code=status, detail=detail)
        self.title = title
        self.more = more

    def document(self) -> dict[str, Any]:
        return {
            "type": "about:blank",
            "title": self.title,
            "status": self.status_code,
            "detail": self.detail,
            **self.more,
        }

    def response(self) -> JSONResponse:
        body = self.document()
        headers = {"Retry-After": RETRY_AFTER} if self.status_code == HTTPStatus.SERVICE_UNAVAILABLE else None
        return JSONResponse(body, self.status_code, headers, media_type="application/problem+json")


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems that a route may answer with, for OpenAPI."""
    schema = {
        "type": "object",
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "allowed": {"description": "What would have been accepted"},
            "errors": {"type": "array", "items": {"type": "object"}},
        },
        "required": ["type", "title", "status", "detail"],
    }
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {"application/problem+json": {"schema": schema}}}
        for status in statuses
    }


def _validation_problem(errors: Sequence[Any]) -> Problem:
    """What pydantic found, a sentence each."""
    found = [{"where": "/".join(str(p) for p in e["loc"]), "what": e["msg"]} for e in errors]
    detail = "; ".join(f"{e['where']}: {e['what']}" for e in found)
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid request", detail, errors=found)


def _http_problem(error: HTTPException) -> Response:
    if isinstance(error, Problem):
        return error.response()
    response = Problem(error.status_code, HTTPStatus(error.status_code).phrase, str(error.detail)).response()
    response.headers.update(error.headers or {})
    return response


class BodyLimit:
    """ASGI middleware: the body of a POST has at most `most` bytes; more is answered with 413 and not read."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app = app
        self.most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        problem = Problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "too large",
            f"The body may have at most {self.most} bytes.",
            allowed=self.most,
        )
        declared = dict(scope["headers"]).get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self.most:
            await problem.response()(scope, receive, send)
            return
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.most:
                raise problem
            return message

        await self.app(scope, bounded, send)


def make_app(title: str, *, max_body_bytes: int = 65_536) -> FastAPI:
    """A FastAPI app whose every error is problem+json, and whose JSON bodies are bounded."""
    app = FastAPI(title=title, version="0.1.0", responses=problem_responses(422))
    app.add_middleware(BodyLimit, most=max_body_bytes)

    @app.exception_handler(HTTPException)
    async def http_problem(request: Request, error: HTTPException) -> Response:
        if error.status_code == HTTPStatus.BAD_REQUEST:  # FastAPI's word for a body that is no text, or nested too deep
            return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid request", f"body: {error.detail}").response()
        return _http_problem(error)

    @app.exception_handler(RequestValidationError)
    async def validation_problem(request: Request, error: RequestValidationError) -> Response:
        return _validation_problem(error.errors()).response()

    @app.exception_handler(TransientFailure)
    async def unavailable(request: Request, error: TransientFailure) -> Response:
        return Problem(HTTPStatus.SERVICE_UNAVAILABLE, f"{error.dependency} is unavailable", str(error)).response()

    @app.exception_handler(ClientDisconnect)
    async def cut_off(request: Request, error: ClientDisconnect) -> Response:  # nobody reads it, and nobody is at fault
        return Problem(
            HTTPStatus.BAD_REQUEST, "cut off", "The client went away before its request was whole."
        ).response()

    @app.exception_handler(RejectedInput)
    async def rejected(request: Request, error: RejectedInput) -> Response:
        return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, error.rule, error.reason).response()

    return app


def ndjson(items: AsyncIterator[Mapping[str, Any]]) -> StreamingResponse:
    """A long answer, a JSON document a line, as it comes; where it breaks off, the last one is {"problem": ...}."""

    async def lines() -> AsyncIterator[bytes]:
        try:
            async for item in items:
                yield _line(item)
        except TransientFailure as error:
            problem = Problem(HTTPStatus.SERVICE_UNAVAILABLE, f"{error.dependency} is unavailable", str(error))
            yield _line({"problem": problem.document()})
        except RejectedInput as error:
            problem = Problem(HTTPStatus.UNPROCESSABLE_ENTITY, error.rule, error.reason)
            yield _line({"problem": problem.document()})
        except AcequiaError as error:
            problem = Problem(HTTPStatus.INTERNAL_SERVER_ERROR, type(error).__name__, str(error))
            yield _line({"problem": problem.document()})

    return StreamingResponse(lines(), media_type=NDJSON)


def _line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, default=str).encode() + b"\n"


# services


class Service(Protocol):
    """A part of Acequia that lives for as long as its process."""

    name: str
    routers: Sequence[APIRouter]

    async def start(self) -> None:
        """Begin, with the topology in place. TransientFailure: it is tried again."""
        ...

    async def stop(self, grace: float) -> None:
        """Take no more work, finish what is in hand within `grace` seconds, hand the rest back."""
        ...

    async def check(self) -> None:
        """Raise what keeps the service from its work."""
        ...


@dataclass(slots=True)
class ConsumerService:
    """A service that handles the messages of one queue, and of its replay queue while no other work waits."""

    name: str
    workshop: Workshop
    queue: str
    handle: Handler
    prepare: Callable[[], Awaitable[None]]
    concurrency: int = 2
    routers: Sequence[APIRouter] = ()
    _subscription: Subscription | None = None
    _replays: Subscription | None = None
    _watch: asyncio.Task[None] | None = None
    _in_hand: int = 0

    async def start(self) -> None:
        await self.prepare()
        self._subscription = await self.workshop.bus.consume(
            self.queue, self._handle_live, concurrency=self.concurrency
        )
        self._watch = asyncio.create_task(self._watch_replays(), name=f"{self.name}: replays")

    async def _handle_live(self, delivery: Delivery) -> Settlement:
        self._in_hand += 1
        try:
            return await self.handle(delivery)
        finally:
            self._in_hand -= 1

    async def _watch_replays(self) -> None:
        """Consume the replay queue as long as the live one is empty and hands are free."""
        bus, queue = self.workshop.bus, replay_queue(self.name)
        while True:
            pause = REPLAY_LOOK_SECONDS
            try:
                waiting = await bus.depth(queue)
                if waiting and self._in_hand < self.concurrency and not await bus.depth(self.queue):
                    if self._replays is None:
                        self._replays = await bus.consume(queue, self.handle, concurrency=self.concurrency)
                    await self._replays.resume()
                elif self._replays is not None:
                    await self._replays.pause()
                pause = REPLAY_TURN_SECONDS if waiting else REPLAY_LOOK_SECONDS
            except (TransientFailure, ConfigurationError) as error:
                log.warning("%s: replays wait: %s", self.name, error)
            await asyncio.sleep(pause)

    async def stop(self, grace: float) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait({self._watch})
        subscriptions = [s for s in (self._subscription, self._replays) if s is not None]
        await asyncio.gather(*(subscription.close(grace=grace) for subscription in subscriptions))

    async def check(self) -> None:
        if self._subscription is None:
            raise TransientFailure(f"{self.name} is starting", dependency=self.name)
        if self._watch is not None and self._watch.done():
            raise TransientFailure(f"{self.name} looks at no replays any more", dependency=self.name)


@dataclass(slots=True)
class BatchService:
    """A many-to-one stage: consumes while it gathers, and works its plans off."""

    name: str
    workshop: Workshop
    queue: str
    runner: BatchRunner
    routers: Sequence[APIRouter] = ()
    _subscription: Subscription | None = None
    _life: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.runner.start()
        bus, handle = self.workshop.bus, self.runner.handle
        live = await bus.consume(self.queue, handle, concurrency=BATCH_CONCURRENCY)
        self._subscription = subscription = _Both(live)
        # what is replayed joins the plan of what waits: nothing goes before anything
        subscription.other = await bus.consume(replay_queue(self.name), handle, concurrency=BATCH_CONCURRENCY)
        self._life = asyncio.create_task(self.runner.run(subscription), name=self.name)
        self._life.add_done_callback(self._ended)

    def _ended(self, life: asyncio.Task[None]) -> None:
        if not life.cancelled() and (error := life.exception()) is not None:
            log.critical("%s: a bug ended it", self.name, exc_info=error)
            if self.workshop.fatal is not None:
                self.workshop.fatal(ConfigurationError(f"{self.name} ended by a bug: {error!r} (see the log)"))

    async def stop(self, grace: float) -> None:
        if self._life is not None:
            await self.runner.finish(self._life, grace)
        if self._subscription is not None:
            await self._subscription.close(grace=0)

    async def check(self) -> None:
        if self._life is None:
            raise TransientFailure(f"{self.name} is starting", dependency=self.name)
        if self._life.done():
            raise TransientFailure(f"{self.name} has ended", dependency=self.name)


@dataclass(slots=True)
class _Both:
    """Two subscriptions as one."""

    one: Subscription
    other: Subscription | None = None

    async def pause(self) -> None:
        await asyncio.gather(*(subscription.pause() for subscription in self._all()))

    async def resume(self) -> None:
        await asyncio.gather(*(subscription.resume() for subscription in self._all()))

    async def close(self, *, grace: float) -> None:
        await asyncio.gather(*(subscription.close(grace=grace) for subscription in self._all()))

    def _all(self) -> Sequence[Subscription]:
        return [subscription for subscription in (self.one, self.other) if subscription is not None]


def queue_of(stage: str) -> str:
    return next(reader.queue for reader in READERS if reader.stage == stage)


def stage_service(stage: Stage, workshop: Workshop, concurrency: int) -> ConsumerService:
    """A one-to-one stage as a service."""
    runner = StageRunner(stage, workshop)
    return ConsumerService(stage.name, workshop, queue_of(stage.name), runner.handle, runner.start, concurrency)


def batch_service(stage: BatchStage, workshop: Workshop, **patience: float) -> BatchService:
    """A many-to-one stage as a service. `patience`: BatchRunner's times, for tests and for the embedded mode."""
    return BatchService(stage.name, workshop, queue_of(stage.name), BatchRunner(stage, workshop, **patience))


# a process


@dataclass(slots=True)
class House:
    """The services of one process and how they are."""

    title: str
    meters: Meters = field(default_factory=Meters)
    workshop: Workshop | None = None
    services: list[Service] = field(default_factory=list)
    problem: Exception | None = None
    stopping: bool = False

    async def check(self) -> Mapping[str, str]:
        """Each part by name and "ok", or what is wrong with it."""
        if self.workshop is None:
            return {"start": str(self.problem or "connecting")}
        checks: dict[str, Awaitable[None]] = {"store": self.workshop.store.check(), "bus": self.workshop.bus.check()}
        checks |= {service.name: service.check() for service in self.services}
        found = await asyncio.gather(*checks.values(), return_exceptions=True)
        states = {name: "ok" if result is None else str(result) for name, result in zip(checks, found, strict=True)}
        return states | ({"stop": "stopping"} if self.stopping else {})

    def add_routes(self, app: FastAPI) -> None:
        """/health, /ready, /metrics."""
        router = APIRouter(tags=["operation"])

        @router.get("/health")
        async def health() -> dict[str, str]:
            """Alive. It says nothing of the servers that the service needs: /ready does."""
            return {"status": "alive", "service": self.title}

        @router.get("/ready", responses=problem_responses(503))
        async def ready() -> dict[str, str]:
            """Whether the service can do its work, and what is wrong if not."""
            states = dict(await self.check())
            if any(state != "ok" for state in states.values()):
                wrong = "; ".join(f"{name}: {state}" for name, state in states.items() if state != "ok")
                raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "not ready", wrong, parts=states)
            return states

        @router.get("/metrics", response_class=PlainTextResponse)
        async def metrics() -> Response:
            """Prometheus metrics."""
            return Response(generate_latest(self.meters.registry), media_type=CONTENT_TYPE_LATEST)

        app.include_router(router)

        @app.exception_handler(HTTPStatus.NOT_FOUND)
        async def not_found(request: Request, error: HTTPException) -> Response:
            """The routes of the services come as these start: before that, a client is to try again."""
            if self.workshop is None:
                starting = Problem(
                    HTTPStatus.SERVICE_UNAVAILABLE, f"{self.title} is starting", str(self.problem or "connecting")
                )
                return starting.response()
            return _http_problem(error)

    async def open(self, app: FastAPI, workshop: Workshop, services: Sequence[Service]) -> None:
        """Start `services`, the last of the chain first, and serve their routes. All of them run then, or none."""
        begun: list[Service] = []
        try:
            for service in services:
                begun.append(service)
                await service.start()
        except Exception:  # it is tried again, with other services: these must not go on beside them
            await _stop_all(begun, grace=0)
            raise
        except BaseException:
            self.services += begun  # `close` stops them
            raise
        for service in services:
            for router in service.routers:
                app.include_router(router)
        self.services += begun
        self.workshop = workshop
        app.openapi_schema = None

    async def stop(self, grace: float) -> None:
        """Stop every service."""
        self.stopping = True
        await _stop_all(self.services, grace)

    async def release(self) -> None:
        """Let go of the servers."""
        if self.workshop is not None:
            try:
                await self.workshop.bus.close()
            finally:
                await self.workshop.store.close()

    async def close(self, grace: float) -> None:
        """Stop every service, then let go of the servers."""
        await self.stop(grace)
        await self.release()


async def _stop_all(services: Sequence[Service], grace: float) -> None:
    """Each, whatever becomes of another."""
    ended = await asyncio.gather(*(service.stop(grace) for service in services), return_exceptions=True)
    for service, error in zip(services, ended, strict=True):
        if isinstance(error, Exception):
            log.error("%s did not stop in good order", service.name, exc_info=error)


Build = Callable[[Workshop, AcequiaSettings], Sequence[Service]]


class QuietServer(uvicorn.Server):
    """uvicorn that leaves the signals to us: it would end the process by the signal, and our exit code is 0."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        """Set once it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def configure_logging(level: str) -> None:
    """One line a record on standard error."""
    logging.basicConfig(
        level=level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )
    for noisy in ("httpx", "httpcore", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for told_by_us in ("aio_pika", "aiormq", "asyncpg"):  # each failed attempt to connect, with a traceback
        logging.getLogger(told_by_us).setLevel(logging.CRITICAL)


def serve(name: str, build: Build, *own: type[BaseSettings]) -> NoReturn:
    """Run a service until SIGTERM or SIGINT. Exit code 0; 2 where a person must change a setting.

    `own`: settings that `build` will read. They are looked at before any server is waited for.
    """
    try:
        check(AcequiaSettings, MinioSettings, RabbitSettings, *own)
        settings, minio, rabbit = load(AcequiaSettings), load(MinioSettings), load(RabbitSettings)
        configure_logging(settings.log_level)
        clear_folders(settings.temp_dir)
        # not closed: that would wait for a training in a worker thread, however long it takes
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        code = runner.run(_serve(name, build, settings, minio, rabbit))
    except ConfigurationError as error:
        sys.stderr.write(f"acequia-{name}: {error}\n")
        code = 2
    leave(code)


def leave(code: int) -> NoReturn:
    """End the process now: a training in a worker thread that outlived its grace is redone by the next start."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


async def _serve(
    name: str, build: Build, settings: AcequiaSettings, minio: MinioSettings, rabbit: RabbitSettings
) -> int:
    app = make_app(f"Acequia {name}", max_body_bytes=settings.max_body_bytes)
    house = House(name)
    house.add_routes(app)
    server = QuietServer(
        uvicorn.Config(
            app,
            host=settings.http_host,
            port=settings.http_port,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=max(1, int(settings.stop_grace)),
        )
    )
    stop = asyncio.Event()
    fatal: list[ConfigurationError] = []

    def fail(error: ConfigurationError) -> None:
        fatal.append(error)
        stop.set()

    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    serving = asyncio.create_task(_listen(server, name, settings))
    serving.add_done_callback(lambda _: stop.set())
    opening = asyncio.create_task(_open(house, app, build, settings, minio, rabbit, fail))
    await stop.wait()
    opening.cancel()
    with suppress(asyncio.CancelledError):
        await opening
    # requests in hand end while store and bus are still there
    server.should_exit = True
    ended = await asyncio.gather(house.stop(settings.stop_grace), serving, return_exceptions=True)
    await house.release()
    for error in ended:
        if isinstance(error, BaseException):
            raise error
    if fatal:
        sys.stderr.write(f"acequia-{name}: {fatal[0]}\n")
        return 2
    return 0


async def _listen(server: uvicorn.Server, name: str, settings: AcequiaSettings) -> None:
    try:
        await server.serve()
    except SystemExit as error:
        raise ConfigurationError(
            f"ACEQUIA_HTTP_PORT: {name} can't listen on {settings.http_host}:{settings.http_port}"
        ) from error


async def _open(
    house: House,
    app: FastAPI,
    build: Build,
    settings: AcequiaSettings,
    minio: MinioSettings,
    rabbit: RabbitSettings,
    fail: Callable[[ConfigurationError], None],
) -> None:
    """Connect, apply the topology, start; again and again while a server is away."""
    pause = 0.5
    store: ObjectStore | None = None
    bus: Bus | None = None
    while True:
        try:
            store = store or await MinioStore.open(minio, settings.buckets)
            bus = bus or await RabbitBus.connect(rabbit)
            table = topology(settings.buckets, settings.retry_delays)
            await bus.apply(table)
            await store.apply(table)
            workshop = Workshop(
                store,
                bus,
                settings.buckets,
                load_registry(),
                meters=house.meters,
                temp_dir=settings.temp_dir,
                fatal=fail,
            )
            await house.open(app, workshop, build(workshop, settings))
            log.info("%s is ready on http://%s:%d", house.title, settings.http_host, settings.http_port)
            return
        except TransientFailure as error:
            house.problem = error
            log.warning("%s waits %.1f s: %s", house.title, pause, error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)
        except ConfigurationError as error:
            fail(error)
            return
        except Exception as error:
            log.exception("%s can not start", house.title)
            fail(ConfigurationError(f"can not start: {error!r} (see the log)"))
            return
