"""The lakehouse's work on one plan: SILVER objects come into their dataset's table. The only committer of tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from acequia.datasets import Registry
from acequia.errors import RejectedInput
from acequia.events import Load
from acequia.layers import Stem, manifest_key
from acequia.stage import Candidate
from acequia.work import Outcome, Work
from acequia_lakehouse.catalog import table_name, tombstone_table
from acequia_lakehouse.given import Given, Order, Report, given_by
from acequia_lakehouse.merge import merge
from acequia_lakehouse.problems import until_it_holds
from acequia_lakehouse.register import register
from acequia_lakehouse.tables import At, Tables

Rejected = Callable[[Sequence[str]], Sequence[bool]]
"""Of keys in QUARANTINE: whether there is such an object."""


def compose(inputs: Sequence[Candidate], window: Sequence[Candidate]) -> Mapping[str, Any]:
    """Beside the new objects, the parts of their full loads that earlier plans covered."""
    numbers = {load.number for c in inputs if (load := _full(c)) is not None}
    return {"window": [asdict(c) for c in window if (load := _full(c)) is not None and load.number in numbers]}


def reach(inputs: Sequence[Candidate]) -> date | None:
    """The parts of a full load have one date: that of its run."""
    stems = [Stem.parse(c.stem) for c in inputs if _full(c) is not None]
    return min((stem.date for stem in stems if stem is not None), default=None)


def _full(candidate: Candidate) -> Load | None:
    load = Load.parse(candidate.load)
    return load if load is not None and load.full else None


def bring_in(
    work: Work, inputs: Sequence[Path], out: Path, *, tables: Tables, registry: Registry, rejected: Rejected, at: At
) -> Outcome:
    """Bring the plan's objects into the table and say what became of each. Does nothing twice.

    Raises RejectedInput (`nothing_for_the_table`) where no object could come in, TransientFailure where others were
    faster too often, or catalog or store is away.
    """
    dataset = registry[work.dataset]
    given = given_by(work, tables.place)
    order = Order(work.written)
    plan = f"{work.dataset}/{int(work.plan.get('number', work.stem.plan or 0)):06d}"
    name = table_name(work.dataset, tables.settings)

    def once() -> Report:
        if dataset.key:
            graves = tombstone_table(work.dataset, tables.settings)
            return merge(tables, name, graves, dataset.key, given, order, plan, at)
        return register(tables, name, given, order, plan)

    report = until_it_holds(once, ".".join(name))
    at("lakehouse.after_table")
    if given and len(report.skipped) == len(given):
        reasons = "; ".join(f"{s.uri}: {s.reason}" for s in report.skipped[:3])
        raise RejectedInput("nothing_for_the_table", reasons)
    document = report.document()
    _name_rejected(document, given, work, rejected)
    return Outcome(
        document=document,
        rows_in=report.rows_in,
        rows_out=report.rows_added,
        parameters={"table": report.table, "snapshot": report.snapshot, "loads": document["loads"]},
        metrics={
            "rows_added": report.rows_added,
            "rows_updated": report.rows_updated,
            "rows_deleted": report.rows_deleted,
            "rows_outdated": report.rows_outdated,
            "objects_registered": report.registered,
            "objects_copied": report.copied,
            "objects_already_there": report.already,
            "objects_older": report.older,
            "objects_skipped": len(report.skipped),
        },
    )


def _name_rejected(document: dict[str, Any], given: Sequence[Given], work: Work, rejected: Rejected) -> None:
    """Of the parts that a full load lacks: which were rejected, so that the table will not be replaced by it."""
    for load in document["loads"]:
        missing = load["missing"]
        stem = next((Stem.parse(g.stem) for g in given if g.load is not None and g.load.number == load["number"]), None)
        if not missing or stem is None or not work.written:
            continue
        stems = [Stem(stem.dataset, stem.at, stem.id, part) for part in missing]
        keys = [manifest_key("transformer", s, variant) for s in stems for variant in work.written]
        found = rejected(keys)
        per = len(work.written)
        load["rejected"] = [part for n, part in enumerate(missing) if any(found[n * per : (n + 1) * per])]
