"""The chain of hashes over the audit events, and its anchors in the store.

Record `seq` carries sha256(the hash before || its event id, 16 bytes || its stored text, UTF-8). A sequence without
gaps and hashes that follow from each other are made by one writer at a time: an advisory lock is held from before the
records that are known already are looked up until the commit. So the records that anyone sees are the beginning of
one chain, however many auditors write.

A chain alone does not tell that its end was cut off, or that all of it was written anew: the store does, where at
intervals its head is created under a key of its own, once.
"""

import hashlib
import logging
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID, uuid4

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from acequia.events import AuditRecord, Kind, Status, event_id, utc_now
from acequia.layers import ANCHORS, UNKNOWN_DATASET, Layer, anchor_key, anchor_prefix
from acequia.ports import ObjectStore
from acequia_auditor.connect import Connection, query

log = logging.getLogger(__name__)

CHAIN_LOCK = 0x_ACE_0_0C
"""Key of the advisory lock under which the chain grows."""


class AnchoredHead(BaseModel):
    """Where a chain was when an anchor was written."""

    model_config = ConfigDict(frozen=True)

    chain: UUID
    seq: Annotated[int, Field(ge=1)]
    hash: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    anchored_at: AwareDatetime


class Anchor(AnchoredHead):
    """`anchors/<chain>/<seq>.json` in LEDGER. `previous`: the head that this chain named when it began."""

    event_id: UUID
    host: str = ""
    previous: AnchoredHead | None = None

    @property
    def key(self) -> str:
        return anchor_key(self.chain, self.seq)

    @property
    def head(self) -> AnchoredHead:
        return AnchoredHead(chain=self.chain, seq=self.seq, hash=self.hash, anchored_at=self.anchored_at)


@dataclass(frozen=True, slots=True)
class Head:
    """The last record of a chain; `seq` 0 while it has none."""

    chain: UUID
    seq: int
    hash: bytes
    event_id: UUID | None = None


def genesis(chain: UUID) -> bytes:
    """What the first record of `chain` follows."""
    return hashlib.sha256(f"acequia audit chain {chain}".encode()).digest()


def link(before: bytes, event_id: UUID, body: str) -> bytes:
    """The hash of the record that follows `before`."""
    return hashlib.sha256(before + event_id.bytes + body.encode()).digest()


async def lock_chain(connection: Connection) -> None:
    """Held until the transaction ends. Take it before anything that the next link depends on is read."""
    await connection.execute(query("lock_chain"), CHAIN_LOCK)


async def read_head(connection: Connection) -> Head | None:
    """None: no chain was begun in this database."""
    row = await connection.fetchrow(query("chain_head"))
    if row is None:
        return None
    if row["seq"] is None:
        return Head(row["chain"], 0, genesis(row["chain"]))
    return Head(row["chain"], row["seq"], row["hash"], row["event_id"])


async def begin_chain(connection: Connection) -> Head:
    """Begin a chain in a database that has none."""
    chain = uuid4()
    await connection.execute(query("begin_chain"), chain)
    return Head(chain, 0, genesis(chain))


def chain_begun(chain: UUID, earlier: AnchoredHead) -> AuditRecord:
    """The first record of a chain that stands in for an earlier one: the last that is known of that."""
    now = utc_now()
    return AuditRecord(
        event_id=event_id(Kind.NOTE, "auditor", "", str(chain), Status.CHAIN_BEGUN),
        kind=Kind.NOTE,
        status=Status.CHAIN_BEGUN,
        run_id=chain,
        stage="auditor",
        variant="",
        dataset=UNKNOWN_DATASET,
        parameters={"chain": str(chain), "previous": earlier.model_dump(mode="json")},
        started=now,
        finished=now,
        host=socket.gethostname(),
    )


def named_by(body: str) -> AnchoredHead | None:
    """The head that a CHAIN_BEGUN record names."""
    try:
        return AnchoredHead.model_validate(AuditRecord.model_validate_json(body).parameters.get("previous"))
    except ValidationError:
        return None


async def read_previous(connection: Connection) -> AnchoredHead | None:
    """The head of the chain before this one, if its first record names one."""
    body = await connection.fetchval(query("chain_beginning"))
    return named_by(body) if body is not None else None


# anchors


async def write_anchor(store: ObjectStore, head: Head, previous: AnchoredHead | None) -> Anchor | None:
    """Anchor `head`; None where that record was anchored before. Raises as the store does."""
    assert head.event_id is not None
    anchor = Anchor(
        chain=head.chain,
        seq=head.seq,
        hash=head.hash.hex(),
        event_id=head.event_id,
        anchored_at=utc_now(),
        host=socket.gethostname(),
        previous=previous,
    )
    body = anchor.model_dump_json(indent=1).encode()
    created = await store.create(Layer.LEDGER, anchor.key, body, metadata={}, content_type="application/json")
    if created is not None:
        return anchor
    standing = await read_anchor(store, anchor.key)
    if standing is None or (standing.seq, standing.hash) != (anchor.seq, anchor.hash):
        log.error("%s says otherwise than the database: the audit trail was changed; see /audit/verify", anchor.key)
    return None


async def read_anchor(store: ObjectStore, key: str) -> Anchor | None:
    """None: it is not there, or none of ours."""
    found = await store.read(Layer.LEDGER, key)
    try:
        anchor = Anchor.model_validate_json(found[0]) if found else None
    except ValidationError:
        return None
    return anchor if anchor and anchor.key == key else None


async def anchored_chains(store: ObjectStore) -> list[UUID]:
    """The chains that have anchors in the store."""
    chains = []
    for folder in await store.list_folders(Layer.LEDGER, ANCHORS):
        try:
            chains.append(UUID(folder.removeprefix(ANCHORS).rstrip("/")))
        except ValueError:
            log.warning("%s is no chain's folder", folder)
    return chains


async def anchor_keys(store: ObjectStore, chain: UUID, *, after: str = "") -> AsyncIterator[str]:
    """Keys of the anchors of `chain`, in the order of its records."""
    async for info in store.list_objects(Layer.LEDGER, anchor_prefix(chain), start_after=after):
        yield info.key


async def last_anchor(store: ObjectStore) -> Anchor | None:
    """The newest anchor of the chain that no other names: what a chain that begins now has to name.

    When the objects were written does not count: a copy of a store has other times.
    """
    newest = [anchor for chain in await anchored_chains(store) if (anchor := await newest_anchor(store, chain))]
    named = {anchor.previous.chain for anchor in newest if anchor.previous is not None}
    last = [anchor for anchor in newest if anchor.chain not in named]
    return max(last, key=lambda anchor: anchor.anchored_at, default=None)


async def newest_anchor(store: ObjectStore, chain: UUID) -> Anchor | None:
    """The anchor of the last record of `chain` that has one; None where it cannot be read."""
    last = ""
    async for key in anchor_keys(store, chain):
        last = key
    return await read_anchor(store, last) if last else None
