"""What a port asks of its adapters, and what follows from an error of theirs."""

import inspect
from collections.abc import Awaitable, Callable

from acequia.errors import ConfigurationError, RejectedInput, TransientFailure
from acequia.layers import Buckets
from acequia.ports import Ack
from acequia.topology import topology

QUEUE = "acequia.transformer"
TABLE = topology(Buckets("test"))
AWAY, LATER, PERSON, INPUT = "transient, away", "transient", "configuration", "rejected"


def public(kind: type) -> set[str]:
    """The methods of an adapter that wait for something."""
    return {
        name
        for name, member in inspect.getmembers(kind)
        if not name.startswith("_")
        and (inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(inspect.unwrap(member)))
    }


def of_port(port: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(port, inspect.isfunction) if not name.startswith("_")}


async def ack(_):
    return Ack()


def calls_of_bus(bus, publish: Callable[[], Awaitable[object]]) -> dict[str, Callable[[], Awaitable[object]]]:
    """One call of each method of the port."""
    return {
        "publish": publish,
        "consume": lambda: bus.consume(QUEUE, ack, concurrency=1),
        "depth": lambda: bus.depth(QUEUE),
        "apply": lambda: bus.apply(TABLE),
        "check": bus.check,
        "close": bus.close,
    }


def kind_of(error: Exception) -> str:
    if isinstance(error, TransientFailure):
        return AWAY if error.away else LATER
    if isinstance(error, ConfigurationError):
        return PERSON
    return INPUT if isinstance(error, RejectedInput) else type(error).__name__
