"""Errors, named by what follows from them. One `match` in the runner maps them to what happens next."""

import errno

_OF_THIS_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)


class AcequiaError(Exception):
    """Base of every error that Acequia raises on purpose."""


class RejectedInput(AcequiaError):
    """The input can never be processed, whoever tries: it goes to quarantine, with `rule` and `reason`.

    `rule` is a short identifier that reports count by (``no_rows``, ``truncated``); `reason` is a sentence
    for a person. `details` must be JSON-serialisable.
    """

    def __init__(self, rule: str, reason: str, **details: object) -> None:
        super().__init__(f"{rule}: {reason}")
        self.rule = rule
        self.reason = reason
        self.details = details


class TransientFailure(AcequiaError):
    """Trying again later may succeed: a server away, a time-out, a 5xx, a full disk.

    `dependency` names who failed ("minio", "rabbitmq", "postgresql", "disk"); `away` says that it cannot be
    reached at all, so that other work would fail as well.
    """

    def __init__(self, message: str, *, dependency: str, away: bool = False) -> None:
        super().__init__(message)
        self.dependency = dependency
        self.away = away


class QueueFull(TransientFailure):
    """A queue takes no further message until some of those in it are done. Other queues may."""

    def __init__(self, message: str, *, dependency: str) -> None:
        super().__init__(message, dependency=dependency, away=True)


class ConfigurationError(AcequiaError):
    """A person must change a setting: the process says so in one line and ends.

    `mend`: what exactly to set or to run, where that is known apart from what is wrong.
    """

    def __init__(self, message: str, *, mend: str = "") -> None:
        super().__init__(message)
        self.mend = mend


class InputGone(AcequiaError):
    """The object was deleted, or replaced, between its event and our read (`superseded`). Nothing to commit."""

    def __init__(self, uri: str, *, superseded: bool) -> None:
        super().__init__(f"{uri} was {'replaced' if superseded else 'deleted'} before it was read")
        self.uri = uri
        self.superseded = superseded


class LostRace(AcequiaError):
    """Someone else moved a pointer that this decision was based on: read it again and decide again."""


def of_this_machine(error: BaseException) -> bool:
    """Whether this machine failed (no space, no file handles, no memory), not what it read: then nothing is rejected.

    As Python says it, or as polars does, in words.
    """
    said = str(error)
    return (isinstance(error, OSError) and error.errno in _OF_THIS_MACHINE) or any(
        f"(os error {number})" in said for number in _OF_THIS_MACHINE
    )
