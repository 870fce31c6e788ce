"""One table of everything that has to exist before a message can be lost: exchanges, queues, bindings, buckets, and
notifications last. Every service applies all of it at its start, idempotently, so that no order of starting matters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from acequia.layers import Buckets, Layer

OBJECTS = "acequia.objects"
COMMANDS = "acequia.commands"
AUDIT = "acequia.audit"
DELIVERY_LIMIT = 20
DEFAULT_RETRY_DELAYS = (1, 5, 30, 120, 600)
"""Seconds a message waits on each rung."""
MOST_MESSAGES = 100_000
"""A stage's queue takes no more: who publishes waits, and what the store could not tell is found by the reconciler."""


@dataclass(frozen=True, slots=True)
class Exchange:
    name: str
    type: str = "topic"


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable quorum queue. `retry_delays`: its rungs, in seconds; `dead`: the queue that takes its dead letters.

    `rungs_of`: whose rungs its messages climb, if not its own; from there they come back into that queue. `most`: how
    many messages lie in it at most; one more is refused.
    """

    name: str
    stage: str
    dead: str | None
    retry_delays: tuple[int, ...] = ()
    delivery_limit: int = DELIVERY_LIMIT
    rungs_of: str | None = None
    most: int | None = None

    def retry_queue(self, delay: int) -> str:
        return f"{self.rungs_of or self.name}.retry.{delay}s"

    @property
    def rungs(self) -> Mapping[str, int]:
        """The retry queues that are its own, and their seconds."""
        return {} if self.rungs_of else {self.retry_queue(delay): delay for delay in self.retry_delays}


@dataclass(frozen=True, slots=True)
class Binding:
    exchange: str
    queue: str
    routing_key: str


@dataclass(frozen=True, slots=True)
class Notification:
    """The store tells the bus of new objects of `layer` whose key ends in `suffix`."""

    layer: Layer
    routing_key: str
    target: str
    """Id of the AMQP target in MinIO's settings."""
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class Reader:
    """A stage that wakes on objects of a layer."""

    stage: str
    layer: Layer
    queue: str


READERS: tuple[Reader, ...] = (
    Reader("ingestor", Layer.LANDING, "acequia.ingestor"),
    Reader("transformer", Layer.RAW, "acequia.transformer"),
    Reader("trainer", Layer.SILVER, "acequia.trainer"),
    Reader("lakehouse", Layer.SILVER, "acequia.lakehouse"),
    Reader("evaluator", Layer.MODELS, "acequia.evaluator"),
)
WRITES: Mapping[str, Layer] = {
    "ingestor": Layer.RAW,
    "transformer": Layer.SILVER,
    "trainer": Layer.MODELS,
    "lakehouse": Layer.LAKE,
    "evaluator": Layer.EVAL,
}
AUDIT_QUEUE = "acequia.audit"


def routing_key(layer: Layer) -> str:
    return f"object.{layer.value}"


def dead_queue(stage: str) -> str:
    return f"acequia.{stage}.dead"


def replay_queue(stage: str) -> str:
    """The low-priority queue of a stage: for what is replayed, while nothing else waits."""
    return f"acequia.{stage}.replay"


@dataclass(frozen=True, slots=True)
class Topology:
    exchanges: Sequence[Exchange]
    queues: Sequence[Queue]
    bindings: Sequence[Binding]
    buckets: Buckets
    layers: Sequence[Layer]
    notifications: Sequence[Notification] = field(default=())

    def queue(self, name: str) -> Queue:
        """The queue of that name. KeyError where the table has none."""
        for queue in self.queues:
            if queue.name == name:
                return queue
        raise KeyError(name)


def topology(buckets: Buckets, retry_delays: Sequence[int] = DEFAULT_RETRY_DELAYS) -> Topology:
    """The whole table."""
    delays = tuple(retry_delays)
    queues = [Queue(r.queue, r.stage, dead_queue(r.stage), delays, most=MOST_MESSAGES) for r in READERS]
    queues.append(Queue(AUDIT_QUEUE, "auditor", dead_queue("auditor"), delays, most=MOST_MESSAGES))
    # a dead-letter queue has no limit of its own: what lies in it waits for the auditor, however long that takes
    dead = [Queue(q.dead, q.stage, None) for q in queues if q.dead]
    replays = [
        Queue(replay_queue(r.stage), r.stage, dead_queue(r.stage), delays, rungs_of=r.queue, most=MOST_MESSAGES)
        for r in READERS
    ]
    return Topology(
        exchanges=(Exchange(OBJECTS), Exchange(COMMANDS), Exchange(AUDIT)),
        queues=(*queues, *replays, *dead),
        bindings=(
            *(Binding(OBJECTS, r.queue, routing_key(r.layer)) for r in READERS),
            Binding(COMMANDS, "acequia.ingestor", "ingest"),
            Binding(AUDIT, AUDIT_QUEUE, "#"),
        ),
        buckets=buckets,
        layers=tuple(Layer),
        notifications=tuple(
            Notification(layer, routing_key(layer), layer.value.upper(), _SUFFIX.get(layer, ""))
            for layer in dict.fromkeys(reader.layer for reader in READERS)  # one, however many read it
        ),
    )


_SUFFIX = {Layer.MODELS: "model.json", Layer.RAW: ".parquet", Layer.SILVER: ".parquet"}
