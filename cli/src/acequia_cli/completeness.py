"""What of the objects is done, what was lost, and how it comes back: sweep, verify, replay."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from acequia_cli.client import Api
from acequia_cli.commands import LISTED_MOST, NOT_NOW, Output, asked
from acequia_cli.complaints import DONE, FAILED, WrongUse
from acequia_cli.connection import Where
from acequia_cli.progress import count, plural, ticking
from acequia_cli.times import age, moment

PARTS = ("done", "quarantined", "dead", "held", "not_applicable", "in_flight", "orphans")
"""What an object can be for a reader; each is one of them."""
NARROW = 110
"""Columns below which the table of sums takes what room it can save."""
NARROW_TITLES = {"quarantined": "quaran-\ntined", "not_applicable": "not\nappl.", "in_flight": "in\nflight"}


@dataclass(frozen=True, slots=True)
class Sweep:
    """Have the reconciler send again what was lost."""

    where: Where
    dry_run: bool
    grace: float | None

    async def run(self, output: Output) -> int:
        async with asked(self.where) as connection:
            found = await connection.api.sweep(dry_run=self.dry_run, grace=self.grace)
        output.document(found)
        if not output.as_json:
            self._print(output, found)
            if found["sent"] and connection.in_process:
                output.remark(NOT_NOW)
        return DONE

    def _print(self, output: Output, found: Mapping[str, Any]) -> None:
        orphans: Sequence[str] = found["orphans"]
        seen = sum(found["seen"].values()) if isinstance(found["seen"], dict) else found["seen"]
        _print_uris(output, orphans)
        lost = f"{count(seen)} objects looked at, {plural(len(orphans), 'orphan')}"
        if self.dry_run:
            output.remark(f"{lost}; nothing was sent (--dry-run)" if orphans else f"{lost}: nothing is lost.")
            return
        more = f", {count(found['held_back'])} held back: they may be in flight, or their queue is long"
        output.remark(
            f"{lost}; {count(found['sent'])} sent again{more if found['held_back'] else ''}."
            if orphans
            else f"{lost}: nothing is lost."
        )
        if removed := found.get("removed"):
            output.remark(f"{plural(len(removed), 'file')} beside a model that its card does not name: removed.")


@dataclass(frozen=True, slots=True)
class Verify:
    """Show for each reader that its objects are done, or what else they are."""

    where: Where
    settled: bool
    grace: float | None

    async def run(self, output: Output) -> int:
        compared: dict[str, Any] | None = None
        async with asked(self.where) as connection:
            verified, orphans = await self._ask(connection.api)
            if self.settled:
                compared = await _compare(connection.api)
        problems = [*verified["problems"], *_sums_that_are_wrong(verified["sums"])]
        lost = sum(row["orphans"] for row in verified["sums"])
        ok = bool(verified["ok"]) and not problems and not lost and (compared is None or bool(compared["ok"]))
        document = {
            **verified,
            "ok": ok,
            "problems": problems,
            "orphans": orphans,
            "orphans_left_out": max(0, lost - len(orphans)),
            "audit": compared,
        }
        output.document(document)
        if not output.as_json:
            _print_proof(output.console, document)
        return DONE if ok else FAILED

    async def _ask(self, api: Api) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The result, and the first of the orphans."""
        orphans: list[dict[str, Any]] = []
        result: dict[str, Any] = {}
        with ticking() as tick:
            async for kind, line in api.verify(settled=self.settled, grace=self.grace):
                match kind:
                    case "progress":
                        tick(f"{line['layer'].upper():<8}", f"{line['reader']}: {plural(line['seen'], 'object')}")
                    case "orphan" if len(orphans) < LISTED_MOST:
                        orphans.append(line)
                    case "result":
                        result = line
        return result, orphans


async def _compare(api: Api) -> dict[str, Any]:
    result: dict[str, Any] = {}
    with ticking() as tick:
        async for kind, line in api.compare_audit():
            if kind == "progress":
                tick("audit   ", f"{line['layer'].upper()}: {plural(line['seen'], 'commit object')}")
            elif kind == "result":
                result = line
    return result


def _sums_that_are_wrong(sums: Sequence[Mapping[str, Any]]) -> list[str]:
    """The proof is worth what its arithmetic is: it is done here once more."""
    return [
        f"{row['layer'].upper()}, {row['dataset']}, {row['reader']}: {count(row['objects'])} objects, but the parts "
        f"add up to {count(total)}"
        for row in sums
        if (total := sum(row.get(part, 0) for part in PARTS)) != row["objects"]
    ]


def _print_proof(console: Console, document: Mapping[str, Any]) -> None:
    now = datetime.now(UTC)
    for orphan in document["orphans"]:
        console.print(
            f"orphan  {orphan['uri']}\n        {orphan['layer'].upper()} for the {orphan['reader']}, "
            f"since {age(orphan['since'], now)}: {orphan['reason']}",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
    if document["orphans_left_out"]:
        console.print(f"orphan  and {count(document['orphans_left_out'])} more", highlight=False)
    if document["orphans"]:
        console.print()
    if document["sums"]:
        console.print(sums_table(document["sums"], narrow=console.width < NARROW))
    else:
        console.print("There is no object yet.")
    console.print()
    for sentence in _verdict(document):
        console.print(sentence, soft_wrap=True)


def sums_table(sums: Sequence[Mapping[str, Any]], *, narrow: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1 if narrow else 2, 0, 0))
    for name in ("",) if narrow else ("layer", "dataset", "reader"):
        table.add_column(name, overflow="fold")
    # few ever take over anything
    parts = [part for part in PARTS if part != "held" or any(row.get(part) for row in sums)]
    for name, sign in zip(("objects", *parts), ("", "=", *"++++++"), strict=False):
        title = f"{sign} {NARROW_TITLES.get(name, name) if narrow else name.replace('_', ' ')}".strip()
        table.add_column(title, justify="right", no_wrap=True)
    for row in sums:
        layer, dataset, reader = row["layer"].upper(), row["dataset"], row["reader"]
        names = (f"{layer}, {reader}\n  {dataset}",) if narrow else (layer, dataset, reader)
        table.add_row(*names, count(row["objects"]), *(_number(row, part) for part in parts))
    return table


def _number(row: Mapping[str, Any], part: str) -> Text:
    styles = {"done": "green", "quarantined": "yellow", "dead": "red", "in_flight": "cyan", "orphans": "bold red"}
    number = row.get(part, 0)
    return Text(count(number), styles.get(part, "") if number else "dim")


def _verdict(document: Mapping[str, Any]) -> list[Text]:
    """What the sums say, the best or worst first."""
    sums = document["sums"]
    total = {part: sum(row.get(part, 0) for row in sums) for part in PARTS}
    told = [Text(f"{problem[:1].upper()}{problem[1:]}.", "bold red") for problem in document["problems"]]
    if total["orphans"]:
        told.append(Text("What was lost on the way to its reader, `acequia sweep` sends again."))
    compared = document["audit"]
    if compared is not None:
        told += _told_of_the_audit(compared)
    if document["ok"]:
        flight = f", {count(total['in_flight'])} of it in flight" if total["in_flight"] else ""
        told.insert(0, Text(f"Nothing is lost: everything is accounted for{flight}.", "bold green"))
    if total["dead"]:
        told.append(Text(f"{plural(total['dead'], 'dead letter')}: `acequia dlq list` shows them.", "yellow"))
    if total["held"]:
        told.append(
            Text(
                f"{plural(total['held'], 'object')} taken over and held back: "
                "`acequia replay --layer raw --only-missing` lets them be worked on."
            )
        )
    waiting = {name: messages for name, messages in (document.get("queues") or {}).items() if messages}
    if waiting:
        told.append(Text("Waiting: " + ", ".join(f"{count(n)} in {name}" for name, n in sorted(waiting.items()))))
    elif document.get("settled") and document["ok"]:
        told.append(Text("Settled: no queue holds a message."))
    return told


def _told_of_the_audit(compared: Mapping[str, Any]) -> list[Text]:
    objects = plural(compared["commit_objects"], "commit object")
    if compared["ok"]:
        return [Text(f"The audit database and the store agree on {objects}.")]
    told = [Text(f"The audit database and the store differ ({objects}):", "bold red")]
    for where, mend in (
        ("missing_in_database", "not in the database; `acequia audit rebuild` brings it there"),
        ("missing_in_store", "in the database, and no longer in the store"),
    ):
        told += [Text(f"  {uri}: {mend}", "red") for uri in compared[where]]
        if (left_out := compared["counts"].get(where, 0) - len(compared[where])) > 0:
            told.append(Text(f"  and {count(left_out)} more {mend.partition(';')[0]}", "red"))
    if unreadable := compared["counts"].get("unreadable"):
        told.append(Text(f"  {plural(unreadable, 'object')} that can't be read: the auditor's log names them", "red"))
    return told


@dataclass(frozen=True, slots=True)
class Replay:
    """Send objects of a layer to their readers once more, behind the live work."""

    where: Where
    layer: str
    dataset: str
    since: str | None
    until: str | None
    only_missing: bool
    stale: bool
    dry_run: bool

    async def run(self, output: Output) -> int:
        if self.only_missing and self.stale:
            raise WrongUse(
                "--only-missing asks for what has no outcome, --stale for what has one of an older variant: choose one"
            )
        now = datetime.now(UTC)
        body = {
            "layer": self.layer,
            "dataset": self.dataset,
            "since": moment(self.since, now).isoformat() if self.since else None,
            "until": moment(self.until, now).isoformat() if self.until else None,
            "only_missing": self.only_missing,
            "stale": self.stale,
            "dry_run": self.dry_run,
        }
        objects: list[str] = []
        result: dict[str, Any] = {}
        async with asked(self.where) as connection:
            with ticking() as tick:
                async for kind, line in connection.api.replay({k: v for k, v in body.items() if v is not None}):
                    match kind:
                        case "progress":
                            tick(self.layer.upper(), _so_far(line))
                        case "object" if len(objects) < LISTED_MOST:
                            objects.append(line["uri"])
                        case "result":
                            result = line
        output.document({**body, **result, **({"objects": objects} if self.dry_run else {})})
        if not output.as_json:
            _print_uris(output, objects, of=result["matched"] if self.dry_run else 0)
            nothing = " (--dry-run)" if self.dry_run else ""
            output.remark(f"{self.layer.upper()}, {self.dataset}: {_so_far(result)}{nothing}.")
            if result.get("dead"):
                output.remark(f"{plural(result['dead'], 'dead letter')} left alone: `acequia dlq replay` is for those.")
            if result["sent"]:
                output.remark(
                    NOT_NOW if connection.in_process else "Live work goes first; `acequia verify` shows the rest."
                )
        return DONE


def _so_far(line: Mapping[str, Any]) -> str:
    return f"{count(line['seen'])} objects seen, {count(line['matched'])} matched, {count(line['sent'])} sent"


def _print_uris(output: Output, uris: Sequence[str], *, of: int | None = None) -> None:
    for uri in uris[:LISTED_MOST]:
        output.remark(uri)
    if (left_out := (len(uris) if of is None else of) - LISTED_MOST) > 0:
        output.remark(f"and {count(left_out)} more")
