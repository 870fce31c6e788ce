"""What the doctor found: one line per check, with how to mend what is wrong. Pure."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from acequia.errors import AcequiaError, ConfigurationError


class State(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    state: State
    said: str
    """What is so, or what is wrong, in plain words."""
    mend: str = ""
    """The setting or the command that mends it."""

    def lines(self, width: int) -> Iterator[str]:
        """As a person reads it; `width`: of the column of checks' names."""
        yield f"{self.state.value:<8}{self.check:<{width}}  {self.said}"
        if self.mend:
            yield f"{'':<8}{'':<{width}}  mend: {self.mend}"

    def document(self) -> dict[str, str]:
        return {"check": self.check, "state": self.state.value.lower(), "said": self.said, "mend": self.mend}


class Chart:
    """The findings of one examination, told one by one as they come."""

    def __init__(self, tell: Callable[[Finding], None] = lambda _: None) -> None:
        self.findings: list[Finding] = []
        self._tell = tell

    def ok(self, check: str, said: str) -> None:
        self._add(Finding(check, State.OK, said))

    def warn(self, check: str, said: str, mend: str) -> None:
        self._add(Finding(check, State.WARN, said, mend))

    def fail(self, check: str, said: str, mend: str) -> None:
        self._add(Finding(check, State.FAIL, said, mend))

    def skip(self, checks: Sequence[str], because: str) -> None:
        for check in checks:
            self._add(Finding(check, State.SKIPPED, because))

    @contextmanager
    def examining(self, check: str, mend: str) -> Iterator[None]:
        """An error of ours inside is a failed check. `mend`: where the error itself does not say how."""
        try:
            yield
        except AcequiaError as error:
            known = error.mend if isinstance(error, ConfigurationError) else ""
            self.fail(check, str(error), known or mend)

    def failed(self, *checks: str) -> bool:
        """Whether one of `checks` failed, or any where none is named."""
        return any(f.state is State.FAIL and (not checks or f.check in checks) for f in self.findings)

    def count(self, state: State) -> int:
        return sum(finding.state is state for finding in self.findings)

    def verdict(self) -> str:
        counts = [f"{n} {word}" for state, word in _WORDS.items() if (n := self.count(state))]
        return ("Something is wrong: " if self.failed() else "All is well: ") + ", ".join(counts) + "."

    def document(self) -> dict[str, Any]:
        return {
            "ok": not self.failed(),
            "counts": {state.value.lower(): self.count(state) for state in State},
            "checks": [finding.document() for finding in self.findings],
        }

    def _add(self, finding: Finding) -> None:
        self.findings.append(finding)
        self._tell(finding)


_WORDS = {
    State.OK: "ok",
    State.WARN: "to look at",
    State.FAIL: "failed",
    State.SKIPPED: "not looked at",
}
