"""A command whose options take several values after one flag: `--tables accounts subscriptions`."""

from collections.abc import Iterator, Sequence
from typing import Any

import typer.core

ALL = "*"
"""Stands for every table where a flag is given without a name."""


class SeveralValues(typer.core.TyperCommand):
    """Words after a flag that may be given repeatedly are further values of it, up to the next flag.

    Such a command has no arguments that a word could be instead.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(self._repeated(args)))

    def _repeated(self, args: Sequence[str]) -> Iterator[str]:
        """The same with the flag before each of its values, as the parser knows it."""
        flags = {flag for param in self.params if getattr(param, "multiple", False) for flag in param.opts}
        rest = list(args)
        while rest:
            flag = rest.pop(0)
            values = []
            while flag in flags and rest and not rest[0].startswith("-"):
                values.append(rest.pop(0))
            for value in values:
                yield from (flag, value)
            if not values:
                yield flag
                if flag in flags and flag in OF_ALL:
                    yield ALL


OF_ALL = frozenset({"--full-refresh", "--refrescar"})
"""Flags that mean every table where no name follows."""


def names(given: Sequence[str] | None, *more: Sequence[str] | None) -> tuple[str, ...]:
    """Each name once, in order; commas part them too."""
    every = [name.strip() for values in (given, *more) for value in values or () for name in value.split(",")]
    return tuple(dict.fromkeys(name for name in every if name))
