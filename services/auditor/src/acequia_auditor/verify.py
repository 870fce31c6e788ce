"""Is the audit trail as it was written? Each hash is computed again, and each anchor in the store compared."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
from pydantic import ValidationError

from acequia.events import AuditRecord
from acequia.layers import anchor_key
from acequia.ports import ObjectStore
from acequia_auditor.chain import (
    Anchor,
    AnchoredHead,
    anchor_keys,
    anchored_chains,
    genesis,
    link,
    newest_anchor,
    read_anchor,
    read_previous,
)
from acequia_auditor.database import Database
from acequia_auditor.write import event_row

PAGE = 200
"""Records in memory at once."""
ANCHORS_AT_ONCE = 32
PROBLEMS_MOST = 100
COLUMNS = (
    *("event_id", "kind", "status", "run_id", "parents", "stage", "variant", "dataset", "stem"),
    *("rows_in", "rows_out", "rows_duplicate", "rows_rejected", "attempt", "started", "finished"),
)
"""As `event_row` gives them."""


@dataclass(slots=True)
class Verdict:
    """What verifying found. `first_broken`: the first record at which something is wrong."""

    chain: UUID | None = None
    records: int = 0
    head: tuple[int, str] | None = None
    anchors: int = 0
    last_anchor: AnchoredHead | None = None
    previous: AnchoredHead | None = None
    first_broken: int | None = None
    problems: list[str] = field(default_factory=list)
    more: int = 0
    """Problems beyond those that are listed."""

    def broken(self, seq: int | None, problem: str) -> None:
        if seq is not None and (self.first_broken is None or seq < self.first_broken):
            self.first_broken = seq
        if len(self.problems) < PROBLEMS_MOST:
            self.problems.append(problem)
        else:
            self.more += 1

    def document(self) -> dict[str, Any]:
        problems = [*self.problems, *([f"and {self.more} more"] if self.more else [])]
        return {
            "ok": not problems,
            "chain": self.chain and str(self.chain),
            "records": self.records,
            "head": self.head and {"seq": self.head[0], "hash": self.head[1]},
            "anchors": self.anchors,
            "last_anchor": self.last_anchor and self.last_anchor.model_dump(mode="json"),
            "previous": self.previous and self.previous.model_dump(mode="json"),
            "first_broken": self.first_broken,
            "problems": problems,
        }


async def verify_chain(database: Database, store: ObjectStore) -> AsyncIterator[dict[str, Any]]:
    """`{"progress": {"seq", "of"}}` as it goes, then `{"result": ...}`. Memory is bounded. Raises as both do."""
    check = _Check(database, store)
    async for progress in check.run():
        yield {"progress": progress}
    yield {"result": check.verdict.document()}


class _Check:
    def __init__(self, database: Database, store: ObjectStore) -> None:
        self._database = database
        self._store = store
        self.verdict = Verdict()
        self._seq = 0
        self._hash = b""

    async def run(self) -> AsyncIterator[dict[str, int]]:
        first = await self._database.fetch("chain_page", None, 1)  # before the chain that it has to belong to
        heads = await self._database.fetch("chain_head")
        of = (heads[0]["seq"] or 0) if heads else 0
        verdict = self.verdict
        if not heads:
            if first:
                said = f"record {first[0]['seq']} and what may follow it belong to no chain: which one it was is gone"
                verdict.broken(first[0]["seq"], said)
            await self._check_other_chains()
            return
        verdict.chain = chain = heads[0]["chain"]
        assert chain is not None
        self._hash = genesis(chain)
        anchors = _anchors(self._store, chain)
        anchor = await anext(anchors, None)
        after: int | None = None
        while page := await self._database.fetch("chain_page", after, PAGE):
            for row in page:
                self._check_row(row)
                while anchor is not None and anchor.seq <= row["seq"]:
                    self._check_anchor(anchor, row["seq"], row["hash"])
                    anchor = await anext(anchors, None)
            after = page[-1]["seq"]
            yield {"seq": after, "of": max(of, after)}
        if self._seq:
            verdict.head = (self._seq, self._hash.hex())
        await self._check_end(anchor, anchors)
        async with self._database.transaction() as connection:
            verdict.previous = await read_previous(connection)
        await self._check_other_chains()

    def _check_row(self, row: asyncpg.Record) -> None:
        seq: int = row["seq"]
        self.verdict.records += 1
        if seq < 1:
            self.verdict.broken(seq, f"record {seq} was not written by Acequia: the chain begins with 1")
            return
        if seq == self._seq + 2:
            self.verdict.broken(seq - 1, f"record {seq - 1} is missing")
        elif seq > self._seq + 1:
            self.verdict.broken(self._seq + 1, f"records {self._seq + 1} to {seq - 1} are missing")
        if seq != self._seq + 1:
            pass  # what it followed is gone, so that its own hash cannot be computed
        elif link(self._hash, row["event_id"], row["body"]) != row["hash"]:
            self.verdict.broken(seq, f"record {seq} was changed: it is not what was chained ({row['event_id']})")
        elif wrong := _differing(row):
            self.verdict.broken(seq, f"record {seq} was changed in {', '.join(wrong)} ({row['event_id']})")
        self._seq, self._hash = seq, row["hash"]

    def _check_anchor(self, anchor: "Anchor | _Unreadable", seq: int, hash: bytes) -> None:
        """`seq` and `hash`: of the first record at the anchor's or after it. What is missing was told already."""
        self.verdict.anchors += 1
        if isinstance(anchor, _Unreadable):
            self.verdict.broken(None, f"the anchor {anchor.key} is not one of ours: it was changed")
            return
        self.verdict.last_anchor = anchor.head
        if anchor.seq == seq and anchor.hash != hash.hex():
            told = f"record {anchor.seq} has another hash than was anchored at {_time(anchor.anchored_at)}"
            self.verdict.broken(anchor.seq, f"{told}: it, or something before it, was written anew")

    async def _check_end(
        self, anchor: "Anchor | _Unreadable | None", anchors: "AsyncIterator[Anchor | _Unreadable]"
    ) -> None:
        """Anchors of records after the last that was seen: just written, or cut off."""
        cut = False
        while anchor is not None:
            found = await self._database.fetch("chain_record", anchor.seq)
            if found or isinstance(anchor, _Unreadable):
                self._check_anchor(anchor, anchor.seq, found[0]["hash"] if found else b"")
            else:
                self.verdict.anchors += 1
                self.verdict.last_anchor = anchor.head
                if not cut:
                    said = f"record {anchor.seq} was anchored at {_time(anchor.anchored_at)} and is not there"
                    if self._seq:
                        said = f"the end is cut off after record {self._seq}: {said}"
                    else:
                        said = f"every record is gone: {said}"
                    self.verdict.broken(self._seq + 1, said)
                cut = True
            anchor = await anext(anchors, None)

    async def _check_other_chains(self) -> None:
        """Each chain that has anchors is this one, or is named by it, or by one that is named, and so on."""
        others = set(await anchored_chains(self._store)) - {self.verdict.chain}
        named = self.verdict.previous
        seen = {self.verdict.chain}
        while named is not None and named.chain not in seen:
            seen.add(named.chain)
            named = await self._check_named(named)
        others -= seen
        for chain in sorted(others):
            if (anchor := await newest_anchor(self._store, chain)) is not None:
                holds = f"chain {self.verdict.chain}" if self.verdict.chain else "no chain"
                self.verdict.broken(
                    1,
                    f"other chain: the store has anchors of chain {chain} up to record {anchor.seq}, anchored at "
                    f"{_time(anchor.anchored_at)}; this database holds {holds}, which does not go back to it",
                )

    async def _check_named(self, named: AnchoredHead) -> AnchoredHead | None:
        """Is it the last anchored head of its chain? What that chain named in turn."""
        anchor = await read_anchor(self._store, anchor_key(named.chain, named.seq))
        if anchor is None or anchor.hash != named.hash:
            self.verdict.broken(
                1, f"a later chain names record {named.seq} of chain {named.chain}, which the store denies"
            )
        async for key in anchor_keys(self._store, named.chain, after=anchor_key(named.chain, named.seq)):
            self.verdict.broken(
                1, f"chain {named.chain} went on after record {named.seq}, with which this one begins: see {key}"
            )
            break
        return anchor.previous if anchor else None


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """An object where an anchor should be."""

    key: str
    seq: int


async def _anchors(store: ObjectStore, chain: UUID) -> AsyncIterator[Anchor | _Unreadable]:
    """Each anchor of `chain`, in order."""
    keys: list[str] = []
    async for key in anchor_keys(store, chain):
        keys.append(key)
        if len(keys) == ANCHORS_AT_ONCE:
            for anchor in await _read(store, keys):
                yield anchor
            keys = []
    for anchor in await _read(store, keys):
        yield anchor


async def _read(store: ObjectStore, keys: list[str]) -> Iterable[Anchor | _Unreadable]:
    found = await asyncio.gather(*(read_anchor(store, key) for key in keys))
    return [anchor or _Unreadable(key, _seq_of(key)) for key, anchor in zip(keys, found, strict=True)]


def _seq_of(key: str) -> int:
    name = key.rpartition("/")[2].removesuffix(".json")
    return int(name) if name.isdecimal() else 1


def _differing(row: asyncpg.Record) -> list[str]:
    """Columns that say something else than the record that was chained."""
    try:
        record = AuditRecord.model_validate_json(row["body"])
        told = dict(zip(COLUMNS, event_row(record), strict=True))
        told["parents"] = list(record.parents)
        wrong = [name for name in COLUMNS if row[name] != told[name]]
        return [*wrong, *(["record"] if _loads(row["record"]) != _loads(row["body"]) else [])]
    except (ValidationError, ValueError) as error:
        return [f"a way that this version cannot read: {error}"]


def _loads(text: str) -> Any:
    """JSON to compare: PostgreSQL writes a large float as an integer."""
    return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) <= 15 else float(digits))


def _time(at: datetime) -> str:
    return at.isoformat(timespec="seconds")
