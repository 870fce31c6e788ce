"""Dead letters: work that failed on every rung of the ladder, and what a person does about it."""

import getpass
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from rich.table import Table
from rich.text import Text

from acequia_cli.client import Api
from acequia_cli.commands import LISTED_MOST, NOT_NOW, Output, asked
from acequia_cli.complaints import DONE, FAILED, CommandFailed, ServerAway, WrongUse
from acequia_cli.connection import Connection, Where
from acequia_cli.progress import count, ticking
from acequia_cli.times import age, span

SHORT = 8
"""Digits of an id that people are shown, if these tell it from the others."""
PREFIX_LEAST = 4
PAYLOAD_MOST = 4_000
"""Characters of a payload that people are shown; a document has all."""
NAMED_MOST = 5
"""Ids that an ambiguous prefix is answered with."""
WHOLE = 32
"""Hex digits of an id."""
_PREFIX = re.compile(f"[0-9a-f]{{{PREFIX_LEAST},{WHOLE}}}")
_TOLD_ABOVE = frozenset({"acequia-error", "acequia-traceback"})
"""Headers that repeat the reason and the traceback."""
_TOLD = ("id", "stage", "dataset", "uri", "state", "sent", "gone")

Letter = dict[str, Any]
Act = Callable[[str], Awaitable[Letter]]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters are meant."""

    stage: str | None = None
    dataset: str | None = None
    older_than: str | None = None
    state: str = "open"

    def __call__(self, api: Api) -> AsyncIterator[Letter]:
        older = span(self.older_than).total_seconds() if self.older_than else None
        return api.dead_letters(stage=self.stage, dataset=self.dataset, state=self.state, older_than=older)


@dataclass(frozen=True, slots=True)
class ListDeadLetters:
    where: Where
    meant: Filter
    limit: int = 50

    async def run(self, output: Output) -> int:
        letters: list[Letter] = []
        more = False
        async with asked(self.where) as connection:
            async for letter in self.meant(connection.api):
                if more := len(letters) == self.limit:
                    break
                letters.append(letter)
        output.document({"dead_letters": letters, "more": more})
        if output.as_json:
            return DONE
        if not letters:
            output.remark("No dead letter." if self.meant == Filter() else "No such dead letter.")
            return DONE
        output.console.print(_table(letters, with_state=self.meant.state == "all"))
        output.remark("There are more: see --limit." if more else "`acequia dlq show ID` tells all of one.")
        return DONE


def _table(letters: Sequence[Letter], *, with_state: bool) -> Table:
    now, shown = datetime.now(UTC), _digits(letters)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("id", "age", *(["state"] if with_state else []), "stage"):
        table.add_column(name, no_wrap=True)
    table.add_column("reason, object", overflow="fold")
    for letter in letters:
        told = Text(_first_line(letter["reason"]), "red").append(f"\n{letter['uri'] or letter['dataset']}", "dim")
        state = [letter["state"]] if with_state else []
        table.add_row(letter["id"][:shown], age(letter["died_at"], now), *state, letter["stage"], told)
    return table


def _digits(letters: Sequence[Letter]) -> int:
    """How much of an id tells each of these from the others."""
    ids = {letter["id"] for letter in letters}
    return next((n for n in range(SHORT, 36) if len({id[:n] for id in ids}) == len(ids)), 36)


def _first_line(reason: str) -> str:
    return reason.strip().partition("\n")[0]


@dataclass(frozen=True, slots=True)
class ShowDeadLetter:
    where: Where
    id: str

    async def run(self, output: Output) -> int:
        async with asked(self.where) as connection:
            [id] = await resolve([self.id], connection.api)
            letter = await connection.api.dead_letter(id)
        output.document(letter)
        if not output.as_json:
            _print_letter(output, letter, connection)
        return DONE


def _print_letter(output: Output, letter: Mapping[str, Any], connection: Connection) -> None:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    died = f"{letter['died_at']} ({age(letter['died_at'], datetime.now(UTC))} ago)"
    told = {"id": letter["id"], "state": letter["state"], "died": died} | {
        name.replace("_", " "): letter.get(name)
        for name in ("stage", "dataset", "uri", "run_id", "stem", "variant", "attempt", "type", "message_id")
    }
    if letter.get("uri") and (path := connection.path(letter["uri"])) is not None:
        told["file"] = str(path)
    for name, value in told.items():
        if value not in (None, ""):
            table.add_row(name, Text(str(value)))
    output.console.print(table)
    _print_part(output, "Reason", str(letter["reason"]).strip())
    if (traceback := str(letter.get("traceback") or "").strip()) and traceback != str(letter["reason"]).strip():
        _print_part(output, "Traceback", traceback)
    _print_part(output, "What was done about it", "\n".join(_told_of(act) for act in letter.get("acts") or ()))
    headers = {k: v for k, v in (letter.get("headers") or {}).items() if k not in _TOLD_ABOVE}
    _print_part(output, "Headers", "\n".join(f"{k}: {v}" for k, v in sorted(headers.items())))
    _print_part(output, "Message", _readable(letter))


def _told_of(act: Mapping[str, Any]) -> str:
    by, reason = act.get("by"), act.get("reason")
    return f"{act['at']}  {act['act']}{f' by {by}' if by else ''}{f': {reason}' if reason else ''}"


def _print_part(output: Output, title: str, text: str) -> None:
    if text:
        output.console.print(f"\n{title}", style="bold")
        output.remark(text)


def _readable(letter: Mapping[str, Any]) -> str:
    payload = str(letter.get("payload") or "")
    if letter.get("payload_is_base64"):
        return f"{len(payload) * 3 // 4:,} bytes that are no text (--json has them as base64)"
    with suppress(ValueError):  # what is no JSON is shown as it is
        payload = json.dumps(json.loads(payload), indent=2, ensure_ascii=False)
    return payload if len(payload) <= PAYLOAD_MOST else f"{payload[:PAYLOAD_MOST]}\n... (--json has all of it)"


async def resolve(texts: Sequence[str], api: Api) -> list[str]:
    """The ids that are meant, in the order given, each once. All dead letters are looked through where one is cut."""
    digits = [_digits_of(text) for text in texts]
    found: dict[str, list[str]] = {given: [] for given in digits if len(given) < WHOLE}
    if found:
        async for letter in api.dead_letters(state="all"):
            for given, matching in found.items():
                if letter["id"].replace("-", "").startswith(given):
                    matching.append(letter["id"])
    for given, matching in found.items():
        if not matching:
            raise CommandFailed(f"no dead letter's id begins with {given}: `acequia dlq list --state all` shows all")
        if len(matching) > 1:
            named = ", ".join(matching[:NAMED_MOST]) + (", ..." if len(matching) > NAMED_MOST else "")
            raise WrongUse(f"{given} begins {len(matching):,} ids: {named}. Give more of the one you mean")
    return list(dict.fromkeys(found[given][0] if given in found else str(UUID(given)) for given in digits))


def _digits_of(text: str) -> str:
    """Of an id, or of the beginning of one."""
    digits = text.strip().lower().replace("-", "")
    if not _PREFIX.fullmatch(digits):
        raise WrongUse(
            f"{text!r} is no id of a dead letter, nor the first {PREFIX_LEAST} or more digits of one: "
            "`acequia dlq list` shows them"
        )
    return digits


@dataclass(frozen=True, slots=True)
class ReplayDeadLetters:
    """Send dead letters back to work, behind the live work."""

    where: Where
    ids: tuple[str, ...]
    all: bool
    meant: Filter
    dry_run: bool = False

    async def run(self, output: Output) -> int:
        _one_of(self.ids, self.all, self.meant, "replay")
        async with asked(self.where) as connection:
            api, by = connection.api, _user()

            async def replay(id: str) -> Letter:
                return await api.replay_dead_letter(id, by)

            act = api.dead_letter if self.dry_run else replay
            code = await _act("replayed", self, act, api, output, dry_run=self.dry_run)
        if not output.as_json and not self.dry_run and connection.in_process:
            output.remark(NOT_NOW)
        return code


@dataclass(frozen=True, slots=True)
class DiscardDeadLetters:
    """Mark dead letters as not to be worked on, with the reason."""

    where: Where
    ids: tuple[str, ...]
    all: bool
    meant: Filter
    reason: str
    yes: bool = False

    async def run(self, output: Output) -> int:
        _one_of(self.ids, self.all, self.meant, "discard")
        if not self.reason.strip():
            raise WrongUse("--reason says why, for whoever asks later: it can't be empty")
        if self.all and not self.yes:
            raise WrongUse("--all discards every open dead letter that the options leave: say --yes too if you mean it")
        async with asked(self.where) as connection:
            api, by = connection.api, _user()

            async def discard(id: str) -> Letter:
                return await api.discard_dead_letter(id, self.reason.strip(), by)

            return await _act("discarded", self, discard, api, output)


def _user() -> str:
    """Who asks, as this machine calls them; empty where it does not know."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


def _one_of(ids: Sequence[str], all: bool, meant: Filter, verb: str) -> None:
    if bool(ids) == all:
        raise WrongUse(f"say which to {verb}: ids (`acequia dlq list` shows them), or --all")
    if ids and meant != Filter():
        raise WrongUse("--stage, --dataset and --older-than choose among --all: leave them out where ids are given")


async def _act(
    done: str,
    command: ReplayDeadLetters | DiscardDeadLetters,
    act: Act,
    api: Api,
    output: Output,
    *,
    dry_run: bool = False,
) -> int:
    """Do it to each; what one is refused for does not keep the others. The exit code."""
    acted: list[Letter] = []
    failed: list[dict[str, str]] = []
    number = 0
    with ticking() as tick:
        async for letter in _meant(command, api):
            try:
                answer = {**letter, **await act(letter["id"])}
            except ServerAway as error:
                before = f" ({count(number)} {done} before: run it again for the rest)" if number else ""
                raise ServerAway(f"{error}{before}") from error
            except (CommandFailed, WrongUse) as error:
                failed.append({"id": letter["id"], "error": str(error)})
                continue
            number += 1
            tick("dead letters", f"{count(number)} {'found' if dry_run else done}")
            if len(acted) < LISTED_MOST:
                acted.append({name: answer[name] for name in _TOLD if name in answer})
    output.document({"dry_run": dry_run, done: number, "dead_letters": acted, "failed": failed})
    if not output.as_json:
        for letter in acted:
            output.remark("  ".join(str(letter[name]) for name in ("id", "stage", "uri") if letter.get(name)))
            for uri in letter.get("gone") or ():
                output.remark(f"  {uri}: not sent, it is not in the store any more")
        for one in failed:
            output.console.print(f"{one['id']}: {one['error']}", style="red", soft_wrap=True, markup=False)
        letters = f"{count(number)} dead letter{'' if number == 1 else 's'}"
        output.remark(f"{letters} would be {done} (--dry-run)." if dry_run else f"{letters} {done}.")
    return FAILED if failed else DONE


async def _meant(command: ReplayDeadLetters | DiscardDeadLetters, api: Api) -> AsyncIterator[Letter]:
    if command.all:
        async for letter in command.meant(api):
            yield letter
        return
    for id in await resolve(command.ids, api):
        yield {"id": id}
