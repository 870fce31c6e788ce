"""The audit trail can be trusted: what is changed, removed, cut off or written anew behind our back is named.

The tests do to PostgreSQL what somebody with its owner's password could do.
"""

import asyncio
import hashlib
import json
from functools import partial
from uuid import UUID

import pytest

from acequia.adapters.directory import DirectoryStore
from acequia.adapters.minio import MinioStore
from acequia.datasets import load_registry
from acequia.errors import RejectedInput
from acequia.layers import Buckets, Layer, anchor_key, done_key, landing_done_id
from acequia.runner import Workshop
from acequia.topology import topology
from acequia_auditor.chain import AnchoredHead, last_anchor, read_head
from acequia_auditor.database import Database, open_database
from acequia_auditor.migrate import migrations
from acequia_auditor.rebuild import rebuild
from acequia_auditor.service import AuditorService
from acequia_auditor.settings import AuditorSettings
from acequia_auditor.verify import verify_chain
from acequia_auditor.write import AuditWriter, store_records


@pytest.fixture
def auditor(database, store, bus, buckets):
    return AuditorService(Workshop(store, bus, buckets, load_registry()), database, AuditorSettings())


async def tamper(database, *statements):
    async with database.transaction() as connection:
        for statement in statements:
            await connection.execute(statement)


async def verified(database, store):
    lines = [line async for line in verify_chain(database, store)]
    assert all(set(line) == {"progress"} for line in lines[:-1])
    return lines[-1]["result"]


async def rows(database):
    async with database.transaction() as connection:
        return await connection.fetch("SELECT seq, hash, event_id, body FROM acequia.audit_events ORDER BY seq")


@pytest.fixture
async def ten(database, auditor, tale):
    """Ten records, anchored after the sixth and the tenth."""
    records = [tale().ingested(n + 1) for n in range(10)]
    for n, record in enumerate(records, 1):
        await store_records(database, [record])
        if n in (6, 10):
            await auditor.anchor()
    return records


async def test_a_trail_that_nobody_touched_is_verified_to_its_last_anchor(database, store, ten):
    result = await verified(database, store)
    assert (result["ok"], result["problems"], result["first_broken"]) == (True, [], None)
    assert (result["records"], result["head"]["seq"], result["anchors"]) == (10, 10, 2)
    assert result["last_anchor"]["seq"] == 10
    assert result["last_anchor"]["hash"] == result["head"]["hash"] == (await rows(database))[-1]["hash"].hex()


async def test_each_hash_can_be_computed_by_anyone_from_what_is_stored(database, ten):
    async with database.transaction() as connection:
        chain = await connection.fetchval("SELECT id FROM acequia.chains")
    last = hashlib.sha256(f"acequia audit chain {chain}".encode()).digest()
    for n, row in enumerate(await rows(database), 1):
        last = hashlib.sha256(last + row["event_id"].bytes + row["body"].encode()).digest()
        assert (row["seq"], row["hash"]) == (n, last)


async def test_an_empty_database_and_an_empty_store_agree(database, store):
    result = await verified(database, store)
    assert (result["ok"], result["chain"], result["records"]) == (True, None, 0)


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("body = replace(body, 'ingestor', 'nobody')", "it is not what was chained"),
        ("body = 'no json'", "it is not what was chained"),
        ("hash = sha256('x')", "it is not what was chained"),
        ("event_id = gen_random_uuid()", "it is not what was chained"),
        ("status = 'REJECTED'", "was changed in status"),
        ("rows_in = 7, finished = now()", "was changed in rows_in, finished"),
        ("parents = ARRAY[gen_random_uuid()]", "was changed in parents"),
        ("""record = jsonb_set(record, '{rows_out}', '99')""", "was changed in record"),
    ],
)
async def test_a_changed_row_is_named(database, store, ten, statement, what):
    await tamper(
        database,
        "TRUNCATE acequia.event_objects, acequia.artifacts",
        f"UPDATE acequia.audit_events SET {statement} WHERE seq = 4",
    )
    result = await verified(database, store)
    assert (result["ok"], result["first_broken"]) == (False, 4)
    assert "record 4 was changed" in result["problems"][0]
    assert what in result["problems"][0]


async def test_a_changed_row_whose_hash_was_computed_anew_is_betrayed_by_the_next(database, store, ten):
    await tamper(
        database,
        """UPDATE acequia.audit_events AS e
        SET body = 'x', hash = sha256(b.hash || uuid_send(e.event_id) || convert_to('x', 'UTF8'))
        FROM acequia.audit_events AS b WHERE e.seq = 4 AND b.seq = 3""",
    )
    result = await verified(database, store)
    assert result["first_broken"] == 4  # no record of ours
    assert any("record 5 was changed" in problem for problem in result["problems"])


async def test_a_row_that_was_removed_from_the_middle_is_named(database, store, ten):
    await tamper(database, "DELETE FROM acequia.audit_events WHERE seq = 4")
    result = await verified(database, store)
    assert (result["ok"], result["first_broken"], result["problems"]) == (False, 4, ["record 4 is missing"])


async def test_several_rows_that_were_removed_and_an_anchor_among_them(database, store, ten):
    await tamper(database, "DELETE FROM acequia.audit_events WHERE seq BETWEEN 5 AND 7")
    result = await verified(database, store)
    assert (result["first_broken"], result["problems"]) == (5, ["records 5 to 7 are missing"])


async def test_an_end_that_was_cut_off_is_named_by_the_anchor_of_what_was_there(database, store, ten):
    await tamper(database, "DELETE FROM acequia.audit_events WHERE seq > 7")
    result = await verified(database, store)
    assert (result["ok"], result["first_broken"]) == (False, 8)
    (problem,) = result["problems"]
    assert problem.startswith("the end is cut off after record 7: record 10 was anchored at 20")


async def test_an_end_that_was_cut_off_does_not_heal_by_what_is_written_after_it(database, store, auditor, ten, tale):
    await tamper(database, "DELETE FROM acequia.audit_events WHERE seq > 7")
    await store_records(database, [tale().ingested(1) for _ in range(20)])
    await auditor.anchor()
    result = await verified(database, store)
    assert (result["records"], result["first_broken"]) == (27, 10)
    assert "record 10 has another hash than was anchored" in result["problems"][0]


async def test_a_table_that_was_emptied_is_told(database, store, ten):
    await tamper(database, "TRUNCATE acequia.audit_events CASCADE")
    result = await verified(database, store)
    assert (result["ok"], result["records"], result["first_broken"]) == (False, 0, 1)
    assert result["problems"][0].startswith("every record is gone: record 6 was anchored at 20")


async def test_a_past_that_was_written_anew_with_sound_hashes_contradicts_its_anchors(database, store, ten):
    await tamper(
        database,
        """DO $$
        DECLARE e record; last bytea;
        BEGIN
            SELECT hash INTO last FROM acequia.audit_events WHERE seq = 2;
            UPDATE acequia.audit_events SET
                body = replace(body, '"host":"test"', '"host":"else"'),
                record = jsonb_set(record, '{host}', '"else"') WHERE seq = 3;
            FOR e IN SELECT seq, event_id, body FROM acequia.audit_events WHERE seq >= 3 ORDER BY seq LOOP
                last := sha256(last || uuid_send(e.event_id) || convert_to(e.body, 'UTF8'));
                UPDATE acequia.audit_events SET hash = last WHERE seq = e.seq;
            END LOOP;
        END $$""",
    )
    result = await verified(database, store)
    assert (result["ok"], result["first_broken"]) == (False, 6)
    assert len(result["problems"]) == 2
    assert "record 6 has another hash than was anchored" in result["problems"][0]


@pytest.mark.parametrize("seq", [0, -1, -(2**63)])
async def test_a_row_that_was_slipped_in_before_the_first_is_named(database, store, ten, seq):
    slip_in = f"UPDATE acequia.audit_events SET seq = {seq} WHERE seq = 10"
    with pytest.raises(RejectedInput, match="count_from_one"):
        await tamper(database, slip_in)
    await tamper(database, "ALTER TABLE acequia.audit_events DROP CONSTRAINT audit_events_count_from_one", slip_in)
    result = await verified(database, store)
    assert result["first_broken"] == seq
    assert f"record {seq} was not written by Acequia" in result["problems"][0]
    assert "cut off after record 9" in result["problems"][1]
    assert len(result["problems"]) == 2


async def test_an_anchor_that_was_changed_is_named(database, store, ten):
    chain = UUID((await verified(database, store))["chain"])
    await store.put(Layer.LEDGER, anchor_key(chain, 6), b"{}", metadata={}, content_type="application/json")
    result = await verified(database, store)
    assert result["problems"] == [f"the anchor {anchor_key(chain, 6)} is not one of ours: it was changed"]


async def test_another_chain_in_the_place_of_the_anchored_one_is_told(database, settings, store, auditor, ten, tale):
    first = (await verified(database, store))["chain"]
    await tamper(database, "TRUNCATE acequia.audit_events, acequia.chains CASCADE")
    pretender = Database(settings)  # it does not ask the store
    await store_records(pretender, [tale().accepted()])
    result = await verified(pretender, store)
    await pretender.close()
    assert (result["ok"], result["chain"] != first) == (False, True)
    assert f"other chain: the store has anchors of chain {first} up to record 10" in result["problems"][0]


async def test_a_database_without_a_chain_does_not_hide_that_there_was_one(database, store, ten):
    await tamper(database, "TRUNCATE acequia.audit_events, acequia.chains CASCADE")
    result = await verified(database, store)
    assert (result["ok"], result["chain"]) == (False, None)
    assert "other chain" in result["problems"][0]


async def test_records_of_no_chain_are_told_also_where_nothing_was_anchored(database, store, tale):
    await store_records(database, [tale().accepted(), tale().accepted()])
    await tamper(database, "DELETE FROM acequia.chains", "DELETE FROM acequia.audit_events WHERE seq = 1")
    result = await verified(database, store)
    assert (result["ok"], result["chain"], result["first_broken"]) == (False, None, 2)
    assert "record 2 and what may follow it belong to no chain" in result["problems"][0]


# a rebuilt database


async def in_ledger(store, record):
    body = json.dumps({"accepted": None, "record": record.model_dump(mode="json")}).encode()
    key = done_key(landing_done_id("b", "k", str(record.event_id)))
    await store.create(Layer.LEDGER, key, body, metadata={}, content_type="application/json")


async def test_a_rebuilt_database_begins_a_new_chain_with_a_record_that_names_the_last_anchored_head(
    database, store, auditor, buckets, ten, tale, caplog
):
    for record in ten:
        await in_ledger(store, record)
    before = await verified(database, store)
    for generation in (1, 2):
        await tamper(database, "DROP SCHEMA acequia CASCADE")
        await database.close()
        counts = await rebuild(store, database, buckets, load_registry())
        after = await verified(database, store)
        assert (after["ok"], after["problems"]) == (True, [])
        assert (after["records"], counts.stored) == (11, 10)
        assert after["chain"] != before["chain"]
        assert after["previous"] == before["last_anchor"]
        assert set(after["previous"]) == {"chain", "seq", "hash", "anchored_at"}
        told = f"{after['chain']} begins in place of {before['chain']}, last anchored at record {before['head']['seq']}"
        assert told in [r for r in caplog.records if r.levelname == "WARNING"][-1].message
        async with database.transaction() as connection:
            row = await connection.fetchrow("SELECT status, stage, record FROM acequia.audit_events WHERE seq = 1")
        assert (row["status"], row["stage"]) == ("CHAIN_BEGUN", "auditor")
        named = AnchoredHead.model_validate(json.loads(row["record"])["parameters"]["previous"])
        assert (str(named.chain), named.seq) == (before["chain"], before["head"]["seq"]), generation
        await auditor.anchor()
        before = await verified(database, store)


async def test_a_chain_that_begins_names_the_one_that_stood_also_in_a_copy_of_the_store(
    database, store, auditor, buckets, ten, tale, tmp_path
):
    for _ in range(2):
        await tamper(database, "DROP SCHEMA acequia CASCADE")
        await database.close()
        await store_records(database, [tale().ingested(1)])
        await auditor.anchor()
    chain = (await last_anchor(store)).chain
    anchors = [info.key async for info in store.list_objects(Layer.LEDGER, "anchors/")]
    other = await DirectoryStore.open(tmp_path / "copy", buckets)
    for key in sorted(anchors, key=lambda key: str(chain) not in key):  # its own are copied first
        body = (await store.read(Layer.LEDGER, key))[0]
        await other.create(Layer.LEDGER, key, body, metadata={}, content_type="application/json")
    assert (await last_anchor(other)).chain == chain
    assert (await verified(database, other))["problems"] == []
    await tamper(database, "DROP SCHEMA acequia CASCADE")
    await database.close()
    database.earlier = partial(last_anchor, other)
    await store_records(database, [tale().ingested(1)])
    result = await verified(database, other)
    assert (result["problems"], result["previous"]["chain"]) == ([], str(chain))
    await other.close()


async def test_a_chain_that_names_less_than_was_anchored_is_told(database, settings, store, auditor, ten, tale):
    await tamper(database, "TRUNCATE acequia.audit_events, acequia.chains CASCADE")
    chain = (await last_anchor(store)).chain
    hidden = await store.read(Layer.LEDGER, anchor_key(chain, 10))
    await store.remove(Layer.LEDGER, anchor_key(chain, 10))
    await store_records(database, [tale().accepted()])
    assert (await verified(database, store))["ok"]
    await store.put(Layer.LEDGER, anchor_key(chain, 10), hidden[0], metadata={}, content_type="application/json")
    result = await verified(database, store)
    assert result["problems"] == [
        f"chain {chain} went on after record 6, with which this one begins: see {anchor_key(chain, 10)}"
    ]


async def test_a_chain_before_this_one_whose_anchors_are_all_gone_is_told(database, store, auditor, ten, tale):
    first = (await last_anchor(store)).chain
    await tamper(database, "DROP SCHEMA acequia CASCADE")
    await database.close()
    await store_records(database, [tale().ingested(1)])
    await auditor.anchor()
    for seq in (6, 10):
        await store.remove(Layer.LEDGER, anchor_key(first, seq))
    result = await verified(database, store)
    assert result["problems"] == [f"a later chain names record 10 of chain {first}, which the store denies"]


# several auditors


async def test_two_auditors_at_once_write_one_chain_without_gaps(settings, store, buckets, bus, deliver, tale, caplog):
    databases = [await open_database(settings) for _ in range(2)]
    writers = [AuditWriter(d, batch=7) for d in databases]
    services = [AuditorService(Workshop(store, bus, buckets, load_registry()), d, AuditorSettings()) for d in databases]
    records = [r for one in (tale() for _ in range(150)) for r in (one.accepted(), one.ingested(1, 2))]

    async def anchor_now_and_then():
        while True:
            await asyncio.gather(*(service.anchor() for service in services))
            await asyncio.sleep(0.01)

    anchoring = asyncio.create_task(anchor_now_and_then())
    try:
        # half of the records come to both
        shares = records[:200], records[100:][::-1]
        await asyncio.gather(*(w.handle(deliver(r)) for w, rs in zip(writers, shares, strict=True) for r in rs))
        anchoring.cancel()
        await asyncio.gather(anchoring, return_exceptions=True)
        result = await verified(databases[0], store)
        assert (result["ok"], result["problems"]) == (True, [])
        assert (result["records"], result["head"]["seq"]) == (300, 300)
        assert min(w.stored for w in writers) > 0
        assert not [r for r in caplog.records if "wait" in r.message]  # each batch went in at its first attempt
    finally:
        anchoring.cancel()
        for writer, database in zip(writers, databases, strict=True):
            await writer.close()
            await database.close()


async def test_two_auditors_that_begin_at_once_begin_one_chain(settings, store, tale):
    databases = [await open_database(settings) for _ in range(4)]
    try:
        await asyncio.gather(*(store_records(d, [tale().accepted()]) for d in databases))
        result = await verified(databases[0], store)
        assert (result["ok"], result["records"]) == (True, 4)
    finally:
        for database in databases:
            await database.close()


async def test_a_batch_that_is_rolled_back_leaves_no_gap(database, store, tale):
    await store_records(database, [tale().accepted()])
    with pytest.raises(Exception, match="unstorable"):
        await store_records(database, [tale().accepted(), tale().accepted().model_copy(update={"rows_in": 2**70})])
    await store_records(database, [tale().accepted()])
    result = await verified(database, store)
    assert (result["ok"], result["records"], result["head"]["seq"]) == (True, 2, 2)


async def test_records_with_every_kind_of_text_and_number_are_verified_as_they_are_read(database, store, tale):
    odd = [
        tale().accepted(file="a\0b", path="c:\\u0000", emoji="🛶 ñ", nested={"a": [1, None, True, {"b": "\t\n\"'"}]}),
        tale().accepted(big=10**15, negative=-0.0, tiny=1e-300, large=1e300, tenth=0.1, integer=2**63 - 1),
        tale().accepted().model_copy(update={"metrics": {"huge": 1.7e308, "one": 1.0}}),
    ]
    await store_records(database, odd)
    result = await verified(database, store)
    assert (result["problems"], result["records"]) == ([], 3)


# anchors


async def test_the_head_is_anchored_where_it_moved_and_at_a_clean_stop(settings, store, bus, buckets, deliver, tale):
    database = Database(settings)
    settings_of_anchors = AuditorSettings(anchor_interval=0.02, catch_up_interval=1000)
    service = AuditorService(Workshop(store, bus, buckets, load_registry()), database, settings_of_anchors)
    await service.start()

    async def anchors():
        return [info.key async for info in store.list_objects(Layer.LEDGER, "anchors/")]

    await store_records(database, [tale().accepted()])
    while not await anchors():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    for _ in range(5):
        await service.anchor()
    assert len(await anchors()) == 1
    await store_records(database, [tale().accepted(), tale().accepted()])
    await service.stop(5)
    async with database.transaction() as connection:
        chain = (await read_head(connection)).chain
    assert (await anchors())[-1] == anchor_key(chain, 3)
    await database.close()


async def test_a_store_that_hangs_does_not_keep_the_auditor_from_stopping(
    settings, store, bus, buckets, tale, monkeypatch
):
    from acequia_auditor import service as module

    async def hang(*_, **__):
        await asyncio.Event().wait()

    database = Database(settings)
    service = AuditorService(Workshop(store, bus, buckets, load_registry()), database, AuditorSettings())
    await service.start()
    await store_records(database, [tale().accepted()])
    monkeypatch.setattr(module, "LAST_ANCHOR_SECONDS", 0.05)
    monkeypatch.setattr(DirectoryStore, "create", hang)
    await service.stop(5)


async def test_a_store_that_is_away_stops_no_record_and_is_anchored_later(database, store, auditor, tale, monkeypatch):
    from acequia.errors import TransientFailure

    async def away(*_, **__):
        raise TransientFailure("the store is away", dependency="minio", away=True)

    await store_records(database, [tale().accepted()])
    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStore, "create", away)
        await auditor._try_to_anchor()
    await store_records(database, [tale().accepted()])
    await auditor.anchor()
    assert (await verified(database, store))["last_anchor"]["seq"] == 2


async def test_a_chain_does_not_begin_before_the_store_was_asked_for_an_earlier_one(database, store, auditor, tale):
    from acequia.errors import TransientFailure

    asked = database.earlier

    async def away():
        raise TransientFailure("the store is away", dependency="minio", away=True)

    database.earlier = away
    with pytest.raises(TransientFailure):
        await store_records(database, [tale().accepted()])
    assert (await verified(database, store))["chain"] is None
    database.earlier = asked
    await store_records(database, [tale().accepted()])
    assert (await verified(database, store))["records"] == 1


# records of before the chain


async def test_what_was_stored_before_there_was_a_chain_is_chained_by_the_migration(settings, connect, store, tale):
    connection = await connect(settings)
    old = [name for name, _ in migrations() if name < "0003"]
    await connection.execute("CREATE SCHEMA acequia; CREATE TABLE acequia.migrations (name text PRIMARY KEY)")
    for name, text in migrations():
        if name in old:
            await connection.execute(text)
            await connection.execute("INSERT INTO acequia.migrations VALUES ($1)", name)
    records = [tale().ingested(n + 1) for n in range(5)]
    for record in records:
        await connection.execute(
            """INSERT INTO acequia.audit_events (event_id, kind, status, run_id, parents, stage, variant, dataset, stem,
                rows_in, rows_out, rows_duplicate, rows_rejected, attempt, started, finished, record)
            VALUES ($1, $2, $3, $4, '{}', $5, $6, $7, $8, $9, $10, 0, 0, 1, $11, $12, $13::text::jsonb)""",
            *(record.event_id, record.kind, record.status, record.run_id, record.stage, record.variant),
            *(record.dataset, record.stem, record.rows_in, record.rows_out, record.started, record.finished),
            record.model_dump_json(),
        )
    await connection.close()
    database = await open_database(settings)
    try:
        assert await store_records(database, [*records, tale().accepted()]) == 1
        result = await verified(database, store)
        assert (result["problems"], result["records"]) == ([], 6)
        assert [row["event_id"] for row in await rows(database)][:5] == [record.event_id for record in records]
    finally:
        await database.close()


async def test_verifying_over_http_tells_its_progress_and_ends_with_the_result(database, store, auditor, ten):
    import httpx
    from fastapi import FastAPI

    app = FastAPI()
    for router in auditor.routers:
        app.include_router(router)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://auditor") as client:
        answer = await client.get("/audit/verify")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    assert lines[0] == {"progress": {"seq": 10, "of": 10}}
    assert lines[-1]["result"]["ok"]


async def test_minio_holds_the_anchors_as_the_folder_store_does(stack, fresh_prefix, fresh_database, bus, tale):
    buckets = Buckets(fresh_prefix)
    store = await MinioStore.open(stack.minio, buckets)
    database = await open_database(fresh_database)
    try:
        await store.apply(topology(buckets))
        service = AuditorService(Workshop(store, bus, buckets, load_registry()), database, AuditorSettings())
        for _ in range(12):
            await store_records(database, [tale().ingested(1)])
            await service.anchor()
        result = await verified(database, store)
        assert (result["ok"], result["anchors"], result["last_anchor"]["seq"]) == (True, 12, 12)
        await tamper(database, "DELETE FROM acequia.audit_events WHERE seq > 9")
        assert "the end is cut off after record 9: record 10" in (await verified(database, store))["problems"][0]
        await tamper(database, "DROP SCHEMA acequia CASCADE")
        await database.close()
        await store_records(database, [tale().ingested(1)])
        result = await verified(database, store)
        assert (result["ok"], result["previous"]["seq"]) == (True, 12)
    finally:
        await database.close()
        await store.close()
