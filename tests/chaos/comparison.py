"""What should be there in the end against what is there.

It reads the store and the database itself and knows keys and documents by their own form: nothing of the code under
test takes part.
"""

import asyncio
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from miniopy_async.api import Minio
from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from pyiceberg.expressions import NotNull

from chaos.load import Source

STEM = r"network_events_\d{8}_\d{6}_(?:[0-9a-f]{16}_\d{4,}|plan_\d{6,})"
RAW = re.compile(rf"^network_events/date=[\d-]{{10}}/({STEM})\.parquet$")
SILVER = re.compile(rf"^network_events/date=[\d-]{{10}}/({STEM})\.v\d+-[0-9a-f]{{6}}\.parquet$")
MODEL = re.compile(rf"^network_events/date=[\d-]{{10}}/({STEM})\.v\d+-[0-9a-f]{{6}}/model\.json$")
EVALUATION = re.compile(rf"^network_events/date=[\d-]{{10}}/({STEM})\.v\d+-[0-9a-f]{{6}}/evaluation\.json$")
COMMIT = re.compile(rf"^network_events/date=[\d-]{{10}}/({STEM})\.v\d+-[0-9a-f]{{6}}/commit\.json$")
MANIFEST = re.compile(
    rf"^(transformer|trainer|lakehouse|evaluator)/network_events/date=[\d-]{{10}}/({STEM})\.v.*\.rejected\.json$"
)
PLAN = re.compile(r"^plans/trainer/network_events/(\d{6,})\.json$")
LAKE_PLAN = re.compile(r"^plans/lakehouse/network_events/(\d{6,})\.json$")
TABLE = ("silver", "network_events")

Document = Mapping[str, Any]


@dataclass
class Observed:
    """The store and the database, as they are."""

    layers: dict[str, dict[str, str]]
    """Layer -> key -> etag."""
    done: list[Document]
    plans: dict[int, Document]
    models: dict[str, Document]
    """Key -> card."""
    evaluations: dict[str, Document]
    champion: Document | None
    sums: dict[str, str]
    """Key of a model file -> sha256 of its bytes."""
    lake_plans: dict[int, Document] = field(default_factory=dict)
    rows: Counter[str] = field(default_factory=Counter)
    """Stem -> rows of it in the table."""
    events: list[Document] = field(default_factory=list)
    artifacts: list[tuple[str, str]] = field(default_factory=list)
    """(uri, etag)"""
    dead_letters: int = 0


@dataclass
class Findings:
    """Each a sentence. `lost`: may be a matter of waiting. The others never are."""

    lost: list[str] = field(default_factory=list)
    doubled_artifacts: list[str] = field(default_factory=list)
    doubled_outcomes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[str]:
        return [*self.lost, *self.doubled_artifacts, *self.doubled_outcomes, *self.wrong]


class Reader:
    """Reads both; documents that it has read it does not read again."""

    def __init__(self, store: Minio, prefix: str, database: Mapping[str, Any], lake: Mapping[str, str]) -> None:
        self._lake = lake
        """What pyiceberg wants to know of the catalog."""
        self._store = store
        self._prefix = prefix
        self._database = database
        self._read: dict[tuple[str, str, str], bytes] = {}

    async def observe(self) -> Observed:
        names = ("landing", "raw", "silver", "models", "eval", "quarantine", "ledger")
        layers = dict(zip(names, await asyncio.gather(*(self._list(name) for name in names)), strict=True))
        layers["lake"] = await self._list("lake", "network_events/")
        slots = asyncio.Semaphore(16)

        async def read(layer: str, key: str) -> tuple[str, bytes]:
            known = layer, key, layers[layer][key]
            if known not in self._read:
                async with slots, await self._store.get_object(f"{self._prefix}-{layer}", key) as answer:
                    self._read[known] = await answer.read()
            return key, self._read[known]

        async def documents(layer: str, keys: Iterable[str]) -> dict[str, Any]:
            return {key: json.loads(body) for key, body in await asyncio.gather(*(read(layer, key) for key in keys))}

        ledger, models = layers["ledger"], layers["models"]
        plans = await documents("ledger", filter(PLAN.match, ledger))
        lake_plans = await documents("ledger", filter(LAKE_PLAN.match, ledger))
        champion = await documents("models", [key for key in models if key == "network_events/champion.json"])
        files = await asyncio.gather(*(read("models", key) for key in models if key.endswith(".skops")))
        observed = Observed(
            layers=layers,
            done=list((await documents("ledger", [k for k in ledger if k.startswith("done/")])).values()),
            plans={plan["number"]: plan for plan in plans.values()},
            models=await documents("models", filter(MODEL.match, models)),
            evaluations=await documents("eval", filter(EVALUATION.match, layers["eval"])),
            champion=next(iter(champion.values()), None),
            sums={key: hashlib.sha256(body).hexdigest() for key, body in files},
            lake_plans={plan["number"]: plan for plan in lake_plans.values()},
            rows=await asyncio.to_thread(self._count_rows),
        )
        await self._ask_database(observed)
        return observed

    def _count_rows(self) -> Counter[str]:
        """Of the table as any reader finds it: by the name of a file of SILVER's, else by what the rows say."""
        catalog = load_catalog(self._prefix, **self._lake)
        rows: Counter[str] = Counter()
        try:
            table = catalog.load_table(TABLE)
        except (NoSuchTableError, NoSuchNamespaceError):
            return rows
        finally:
            catalog.close()
        silver = f"s3://{self._prefix}-silver/"
        copied = False
        for task in table.scan().plan_files():
            match = SILVER.match(task.file.file_path.removeprefix(silver))
            copied |= match is None
            if match is not None:
                rows[match[1]] += task.file.record_count
        if copied:
            column = table.scan(row_filter=NotNull("_stem"), selected_fields=("_stem",)).to_arrow().column("_stem")
            rows.update(text.partition(".")[0] for text in column.to_pylist())
        return rows

    async def _list(self, layer: str, prefix: str = "") -> dict[str, str]:
        listed = self._store.list_objects(f"{self._prefix}-{layer}", prefix=prefix, recursive=True)
        return {entry.object_name or "": (entry.etag or "").strip('"') async for entry in listed}

    async def _ask_database(self, observed: Observed) -> None:
        connection = await asyncpg.connect(**self._database)
        try:
            events = await connection.fetch(
                "SELECT event_id::text, kind, status, run_id::text, stage, stem, rows_in, rows_out, rows_duplicate,"
                " rows_rejected, record FROM acequia.audit_events"
            )
            observed.events = [dict(row) for row in events]
            artifacts = await connection.fetch("SELECT uri, etag FROM acequia.artifacts")
            observed.artifacts = [(row["uri"], row["etag"]) for row in artifacts]
            observed.dead_letters = await connection.fetchval("SELECT count(*) FROM acequia.dead_letters")
        finally:
            await connection.close()


def compare(sources: Sequence[Source], observed: Observed, prefix: str) -> Findings:
    """`sources`: what was taken on."""
    findings = Findings()
    _sources(findings, sources, observed, prefix)
    _layers(findings, observed, prefix)
    _plans(findings, observed)
    _lake(findings, observed)
    _outcomes(findings, observed)
    _index(findings, observed, prefix)
    return findings


def _sources(findings: Findings, sources: Sequence[Source], observed: Observed, prefix: str) -> None:
    """Each source that was taken on ends in one `done` that says what it must; nobody else has one."""
    by_run: dict[str, list[Document]] = defaultdict(list)
    by_uri: dict[str, list[Document]] = defaultdict(list)
    for done in observed.done:
        by_run[done["run_id"]].append(done)
        for read in done["record"].get("inputs", ()):
            by_uri[read["uri"]].append(done)
    ours: set[str] = set()
    contents: dict[bytes, list[Document]] = defaultdict(list)
    for source in sources:
        dropped = source.kind == "dropped file"
        ends = by_uri[f"s3://{prefix}-landing/{source.key}"] if dropped else by_run[source.run_id]
        name = f"{source.kind} {source.number} ({source.key or source.run_id})"
        if not ends:
            findings.lost.append(f"{name} has no outcome")
            continue
        if len(ends) > 1:
            findings.doubled_outcomes.append(f"{name} has {len(ends)} outcomes")
        end = ends[0]
        ours.add(end["id"])
        if dropped and source.run_id and end["run_id"] != source.run_id:
            findings.wrong.append(f"{name} is of the run {end['run_id']}, not {source.run_id}")
        if source.rejected:
            if end["status"] != "REJECTED":
                findings.wrong.append(f"{name} is {end['status']}, not REJECTED")
            continue
        if source.content:
            contents[source.content].append(end)
        if end["status"] == "SUCCESS":
            record = end["record"]
            rejected = sum(record.get("rejected", {}).values())
            told = (record["rows_in"], record["rows_out"], rejected)
            if told != (source.rows, source.rows - source.unparsable, source.unparsable):
                findings.wrong.append(f"{name} of {source.rows} rows says rows in, out, rejected: {told}")
        elif not (source.content and end["status"] == "SAME_CONTENT"):
            findings.wrong.append(f"{name} is {end['status']}")
    for ends in contents.values():
        if (firsts := sum(end["status"] == "SUCCESS" for end in ends)) != 1:
            findings.wrong.append(f"of {len(ends)} files of one content {firsts} are SUCCESS")
    unsure = Counter({s.number: s.unanswered for s in sources if s.kind == "request without a key"})
    for done in observed.done:
        if done["id"] in ours:
            continue
        seed = done.get("command", {}).get("source", {}).get("seed")
        unsure[seed] -= 1  # without a key, a request that was not answered may have been carried out
        if unsure[seed] < 0:
            findings.doubled_outcomes.append(f"nobody asked for the run {done['run_id']} ({done['status']})")
    ledger = observed.layers["ledger"]
    findings.lost += [f"{key} is still open" for key in ledger if key.startswith("commands/")]
    findings.wrong += [f"{key} died" for key in ledger if key.startswith("dead/")]


def _layers(findings: Findings, observed: Observed, prefix: str) -> None:
    """Each RAW object is a part of one `done`, as it was told; each has one SILVER object."""
    told: dict[str, Document] = {}
    for done in observed.done:
        if done["status"] == "SUCCESS":
            for output in done["record"]["outputs"]:
                told[output["uri"]] = output
    raw = observed.layers["raw"]
    for key in raw:
        if f"s3://{prefix}-raw/{key}" not in told:
            findings.doubled_artifacts.append(f"raw/{key} belongs to no source")
    for uri, output in told.items():
        layer, _, key = uri.removeprefix(f"s3://{prefix}-").partition("/")
        etag = observed.layers[layer].get(key)
        if etag is None:
            findings.lost.append(f"{uri} is gone")
        elif etag != output["etag"]:
            findings.wrong.append(f"{uri} is not what its outcome tells of")
    stems = _stems(RAW, raw)
    findings.wrong += [f"raw/{key} has a strange name" for key in raw if not RAW.match(key)]
    _one_each(findings, stems, _stems(SILVER, observed.layers["silver"]), _manifests("transformer", observed), "silver")


def _plans(findings: Findings, observed: Observed) -> None:
    """Each SILVER object is covered by one plan, each plan has one model, each model one evaluation."""
    covered = Counter(given["stem"] for plan in observed.plans.values() for given in plan["inputs"])
    _one_each(findings, _stems(SILVER, observed.layers["silver"]), covered, Counter(), "plans")
    if sorted(observed.plans) != list(range(1, len(observed.plans) + 1)):
        findings.wrong.append(f"plans are numbered {sorted(observed.plans)}")
    planned = Counter(plan["stem"] for plan in observed.plans.values())
    models = _stems(MODEL, observed.layers["models"])
    _one_each(findings, planned, models, _manifests("trainer", observed), "models")
    evaluated = _stems(EVALUATION, observed.layers["eval"])
    _one_each(findings, models, evaluated, _manifests("evaluator", observed), "eval")
    for key, card in observed.models.items():
        file = card["artifact"]
        if observed.sums.get(file["key"]) != file["sha256"]:
            findings.wrong.append(f"models/{key} names a file that is not there as it was")
    promoted = {evaluation["model"] for evaluation in observed.evaluations.values() if evaluation["promoted"]}
    if observed.champion is None:
        if promoted:
            findings.wrong.append("a model was promoted, and there is no champion")
    elif observed.champion["model"] not in promoted:
        findings.lost.append(f"the champion {observed.champion['model']} has no evaluation that promoted it")


def _lake(findings: Findings, observed: Observed) -> None:
    """Each SILVER object is in one plan of the lakehouse, each plan is committed once, each row is there once."""
    silver = _stems(SILVER, observed.layers["silver"])
    covered = Counter(given["stem"] for plan in observed.lake_plans.values() for given in plan["inputs"])
    _one_each(findings, silver, covered, Counter(), "the lakehouse's plans")
    planned = Counter(plan["stem"] for plan in observed.lake_plans.values())
    commits = _stems(COMMIT, observed.layers["lake"])
    _one_each(findings, planned, commits, _manifests("lakehouse", observed), "lake")
    wanted = {
        event["stem"]: event["rows_out"]
        for event in observed.events
        if (event["kind"], event["stage"]) == ("outcome", "transformer") and event["stem"] in silver
    }
    for stem, rows in wanted.items():
        found = observed.rows[stem]
        if found < rows:
            findings.lost.append(f"{stem}: {found} of {rows} rows are in the table")
        elif found > rows:
            findings.doubled_artifacts.append(f"{stem}: {found} rows in the table, of {rows}")
    findings.doubled_artifacts += [f"{stem} in the table comes from nothing" for stem in observed.rows.keys() - silver]


def _one_each(
    findings: Findings, wanted: Counter[str], found: Counter[str], rejected: Counter[str], where: str
) -> None:
    """Each of `wanted` is in `found` once, and nothing else is. Nothing that users bring here is rejected later on."""
    for stem in wanted.keys() - found.keys() - rejected.keys():
        findings.lost.append(f"{stem} is not in {where}")
    for stem in found.keys() - wanted.keys():
        findings.doubled_artifacts.append(f"{stem} in {where} comes from nothing")
    findings.doubled_artifacts += [f"{stem} is {n} times in {where}" for stem, n in found.items() if n > 1]
    findings.wrong += [f"{stem} was rejected instead of {where}" for stem in rejected]


def _stems(pattern: re.Pattern[str], keys: Iterable[str]) -> Counter[str]:
    return Counter(match[1] for key in keys if (match := pattern.match(key)))


def _manifests(stage: str, observed: Observed) -> Counter[str]:
    found = (MANIFEST.match(key) for key in observed.layers["quarantine"])
    return Counter(match[2] for match in found if match and match[1] == stage)


def _outcomes(findings: Findings, observed: Observed) -> None:
    """One acceptance and one outcome a run, one outcome an object at each stage; their rows add up."""
    events: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for event in observed.events:
        name = event["run_id"] if event["stage"] == "ingestor" else event["stem"]
        events[event["kind"], event["stage"]][name] += 1
        if event["kind"] == "dead":
            findings.wrong.append(f"{event['stage']} has a dead letter: {event['stem']}")
        if event["kind"] == "outcome" and event["stage"] in ("ingestor", "transformer"):
            out = event["rows_out"] + event["rows_duplicate"] + event["rows_rejected"]
            if event["rows_in"] != out:
                findings.wrong.append(f"{event['stage']} {event['stem']}: {event['rows_in']} rows in, {out} out")
    runs = Counter(done["run_id"] for done in observed.done)
    wanted = {
        ("accepted", "ingestor"): runs,
        ("outcome", "ingestor"): runs,
        ("outcome", "transformer"): _stems(RAW, observed.layers["raw"]),
        ("outcome", "trainer"): Counter(plan["stem"] for plan in observed.plans.values()),
        ("outcome", "evaluator"): _stems(MODEL, observed.layers["models"]),
        ("outcome", "lakehouse"): Counter(plan["stem"] for plan in observed.lake_plans.values()),
    }
    for (kind, stage), names in wanted.items():
        stored = events[kind, stage]
        findings.lost += [f"{stage} {name}: no {kind} in the database" for name in names.keys() - stored.keys()]
        findings.doubled_outcomes += [
            f"{stage} {name}: {count} of {kind} in the database" for name, count in stored.items() if count > 1
        ]
        findings.doubled_outcomes += [
            f"{stage} {name}: {kind} in the database, and nothing in the store" for name in stored.keys() - names.keys()
        ]
    if observed.dead_letters:
        findings.wrong.append(f"{observed.dead_letters} dead letters in the database")


def _index(findings: Findings, observed: Observed, prefix: str) -> None:
    """What lies in the store stands in the database, each object once, as it is."""
    known: dict[str, set[str]] = defaultdict(set)
    for uri, etag in observed.artifacts:
        known[uri].add(etag)
    kinds = (("raw", RAW), ("silver", SILVER), ("lake", COMMIT), ("models", MODEL), ("eval", EVALUATION))
    for layer, pattern in kinds:
        for key, etag in observed.layers[layer].items():
            if not pattern.match(key):
                continue
            uri = f"s3://{prefix}-{layer}/{key}"
            if not known[uri]:
                findings.lost.append(f"{uri} is not in the database")
            elif known[uri] != {etag}:
                findings.doubled_outcomes.append(f"the database knows {uri} as {sorted(known[uri])}, it is {etag}")
