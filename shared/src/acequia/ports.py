"""What Acequia needs from an object store and from a bus. The comments are the contract.

`tests/contract` holds one behavioural suite per port, run on each adapter.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from acequia.layers import Layer
from acequia.topology import Topology


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as the store tells of it. `metadata` is empty in listings."""

    layer: Layer
    key: str
    uri: str
    etag: str
    bytes: int
    last_modified: datetime
    metadata: Mapping[str, str] = field(default_factory=dict)


class ObjectStore(Protocol):
    """Objects by layer and key. Keys are any text that S3 allows (spaces, `+`, unicode).

    But for those that MinIO refuses or bends (`a/../b`, `a//b`, `/a`, a segment of more than 255 bytes, more than 1,024
    bytes in all): every method with a key raises RejectedInput (`bad_key`) for them, see `layers.check_key`. `a/` is
    a folder's marker in MinIO and refused by the folder store. And do not store both `a` and `a/b`: MinIO takes them
    and then leaves `a/b` out of listings, the folder store refuses the second (RejectedInput, `bad_key`).

    Every method raises TransientFailure where trying later may help (`away=True`: the server cannot be reached)
    and ConfigurationError where a person must act (credentials, a console's port). A write is visible whole, data
    and metadata together, or not at all; once it has returned it survives a crash. Writes to LANDING, RAW, SILVER and
    MODELS emit `ObjectCreated` as `topology` says; the event may be lost or doubled, never early.
    Metadata names are lower case without `x-amz-meta-`; values are ASCII.
    """

    async def head(self, layer: Layer, key: str) -> ObjectInfo | None:
        """The object with its metadata, or None where there is none."""
        ...

    async def get(self, layer: Layer, key: str, to: Path, *, etag: str | None = None) -> ObjectInfo:
        """Stream the object into the file `to`, in constant memory.

        Raises InputGone where there is none, or (`superseded`) where its etag is not `etag`.
        """
        ...

    async def read(self, layer: Layer, key: str) -> tuple[bytes, ObjectInfo] | None:
        """A small document whole (plans, claims, cards), or None where there is none."""
        ...

    async def put(
        self, layer: Layer, key: str, data: Path | bytes, *, metadata: Mapping[str, str], content_type: str
    ) -> ObjectInfo:
        """Write, whatever was there before. One PUT, streamed from the file."""
        ...

    async def create(
        self, layer: Layer, key: str, data: Path | bytes, *, metadata: Mapping[str, str], content_type: str
    ) -> ObjectInfo | None:
        """Write only if there is no such object; None where there is one. Of several at once, one wins."""
        ...

    async def replace(
        self,
        layer: Layer,
        key: str,
        data: bytes,
        *,
        etag: str,
        metadata: Mapping[str, str],
        content_type: str,
    ) -> ObjectInfo | None:
        """Write only over the version `etag`; None where it is no longer the current one. Of several, one wins."""
        ...

    async def upload(
        self,
        layer: Layer,
        key: str,
        chunks: AsyncIterator[bytes],
        *,
        metadata: Mapping[str, str],
        content_type: str,
    ) -> ObjectInfo:
        """Stream an object of unknown length, in constant memory. An error or a cancel leaves nothing behind."""
        ...

    def list_objects(self, layer: Layer, prefix: str = "", *, start_after: str = "") -> AsyncIterator[ObjectInfo]:
        """Each object below `prefix` with a key greater than `start_after`, in the order of the keys' UTF-8 bytes."""
        ...

    async def list_folders(self, layer: Layer, prefix: str = "") -> list[str]:
        """The distinct prefixes up to the next `/` after `prefix` (as S3's common prefixes), sorted."""
        ...

    async def remove(self, layer: Layer, key: str) -> None:
        """Remove; no error where there is none."""
        ...

    async def apply(self, topology: Topology) -> None:
        """Make buckets and notifications. Idempotent; other people's notifications are kept."""
        ...

    async def check(self) -> None:
        """Return if the store answers; raise what is wrong otherwise. Cheap: it is called by `/ready`."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Message:
    """What is published. `type` tells the kind ("IngestionCommand", "AuditRecord"; empty: a store's notification)."""

    body: bytes
    type: str = ""
    message_id: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a consumer is handed. `attempt` counts from 1 and grows with each rung of the retry ladder."""

    queue: str
    message: Message
    attempt: int = 1
    redelivered: bool = False


@dataclass(frozen=True, slots=True)
class Ack:
    """Done: forget the message."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Put it on the next rung of the ladder; after the last it is dead (with a bug's traceback)."""

    reason: str
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Dead:
    """Move it to the stage's dead-letter queue at once, with what a person needs to understand why."""

    reason: str
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class HandBack:
    """Neither done nor failed (we are stopping): the broker gives it to another, or to us when we are back."""


Settlement = Ack | Retry | Dead | HandBack
Handler = Callable[[Delivery], Awaitable[Settlement]]


class Subscription(Protocol):
    async def pause(self) -> None:
        """Take no further message; those in the handler's hands go on."""
        ...

    async def resume(self) -> None: ...

    async def close(self, *, grace: float) -> None:
        """Take no further message, wait up to `grace` seconds for those in hand, hand the rest back."""
        ...


class Bus(Protocol):
    """Durable messages, at least once.

    `publish` returns once the message survives a crash of the broker and lies in a queue (a message that no queue
    takes raises TransientFailure). The order of messages is not part of the contract.
    Headers that the bus itself sets on a dead letter: `acequia-error`, `acequia-traceback`, `acequia-stage`,
    `acequia-attempt`, `acequia-died-at` (ISO 8601).
    """

    async def publish(self, exchange: str, routing_key: str, message: Message) -> None:
        """Confirmed. `exchange=""`: `routing_key` is a queue's name. Retries through a reconnect for a few seconds,
        then raises TransientFailure(away=True); QueueFull where a queue has its most messages."""
        ...

    async def consume(self, queue: str, handler: Handler, *, concurrency: int) -> Subscription:
        """Call `handler` for up to `concurrency` messages at once (prefetch = concurrency), each in a task of its own.

        A handler that raises (which it should not) counts as HandBack. A lost connection does not cancel handlers;
        their settlement is dropped and the message comes again. Survives reconnects by itself.
        """
        ...

    async def depth(self, queue: str) -> int:
        """Messages that lie in the queue and are in nobody's hands."""
        ...

    async def apply(self, topology: Topology) -> None:
        """Declare exchanges, queues, bindings. Idempotent. ConfigurationError where the broker holds other ones."""
        ...

    async def check(self) -> None: ...

    async def close(self) -> None: ...
