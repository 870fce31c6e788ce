"""The local overlay in a cluster, from nothing: users who bring things, and whether all of it came through."""

import asyncio
import fcntl
import json
import re
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import httpx
from miniopy_async.api import Minio

from chaos.comparison import Findings, Observed, Reader, compare
from chaos.load import Load, Source, draw_sources
from harness.variables import ROOT, SERVICES
from k8s.cluster import Cluster, Document, Ended, Failed, Forward, Watch, run, until

sys.path.append(str(ROOT / "deploy/native"))  # the scripts there import each other by name

import k8s_local
import parts

NAMESPACE = "acequia"
OVERLAY = "deploy/k8s/overlays/local"
SERVERS = ("minio", "rabbitmq", "postgres")
MADE_BY = "acequia-k8s-test"
"""Label of a namespace that these tests may take down."""
UP_SECONDS = 600.0
SETTLE_SECONDS = 420.0
COUNTED_EVERY = 6.0
ACEQUIA = shutil.which("acequia", path=str(Path(sys.executable).parent)) or "acequia"
LIST_QUEUES = (
    "PATH=/usr/lib/rabbitmq/bin:/opt/rabbitmq/sbin:$PATH; exec rabbitmqctl -q --timeout 20 list_queues --formatter json"
)


class Users:
    """`Load` in a thread: it goes on while pods come and go."""

    def __init__(self, place: "Place", count: int, seconds: float) -> None:
        self.sources = draw_sources(place.seed, count, first=place.drawn)
        place.drawn += count
        place.sources += self.sources
        self._place = place
        self._seconds = seconds
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._live, name="users", daemon=True)

    @property
    def waiting(self) -> int:
        """Sources that nobody has taken on yet."""
        return sum(not (source.run_id or source.kind == "dropped file") for source in self.sources)

    def start(self) -> None:
        self._thread.start()

    def busy(self) -> bool:
        return self._thread.is_alive()

    def end(self, seconds: float = 300) -> None:
        """Each source is taken on now."""
        self._thread.join(seconds)
        if self._error is not None:
            raise self._error
        assert not self._thread.is_alive(), f"{self.waiting} of {len(self.sources)} sources found nobody to take them"

    def _live(self) -> None:
        try:
            asyncio.run(self._bring())
        except BaseException as error:  # noqa: BLE001  it is raised where somebody waits
            self._error = error

    async def _bring(self) -> None:
        place = self._place
        async with aiohttp.ClientSession() as session:
            load = Load(
                self.sources, [place.url], place.minio(session), f"{place.prefix}-landing", place.seed, place.complaints
            )
            await load.bring(self._seconds)
            place.answers.update(load.answers)


@dataclass
class Place:
    """`complaints`: what went wrong that no accounting shows. `told`: what a person reads in the end."""

    seed: int
    say: Callable[[str], None]
    cluster: Cluster = field(default_factory=lambda: Cluster(NAMESPACE))
    sources: list[Source] = field(default_factory=list)
    drawn: int = 0
    complaints: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    answers: Counter[int] = field(default_factory=Counter)
    forced: set[str] = field(default_factory=set)
    """Uids of pods that may end as they like: they were hurried."""
    made: bool = False
    """Whether there is something to take down."""
    _looked_at: int = 0

    # its life

    def bring_up(self, folder: Path) -> None:
        """Images, secrets, the overlay, and everything ready. `folder`: for a copy of deploy/k8s, to apply changed."""
        self._make_room()
        began = time.monotonic()
        self.say("images and secrets: make k8s-local")
        run("make", "--no-print-directory", "-C", str(ROOT), "k8s-local", seconds=3600)
        self.told.append(f"images              {time.monotonic() - began:.0f} s to build and to load")
        began = time.monotonic()
        self.say("applying the local overlay, from nothing")
        run("kubectl", "apply", "-f", str(ROOT / OVERLAY / "namespace.yaml"))
        run("kubectl", "label", "namespace", NAMESPACE, f"{MADE_BY}=yes")
        self.made = True
        run("kubectl", "apply", "-k", str(ROOT / OVERLAY))
        self.watch = Watch(self.cluster)
        self.watch.start()
        self.wait_ready(UP_SECONDS)
        self.told.append(f"from nothing        {time.monotonic() - began:.0f} s until everything was ready")
        self.manifests = folder / "k8s"
        shutil.copytree(ROOT / "deploy/k8s", self.manifests)
        self._find_ways()

    def _make_room(self) -> None:
        """An installation that is somebody's is not touched."""
        there = run("kubectl", "get", "namespace", NAMESPACE, "--ignore-not-found", "-o", "json")
        if not there.strip():
            return
        labels = json.loads(there)["metadata"].get("labels", {})
        if MADE_BY not in labels:
            raise Failed(
                f"the cluster has a namespace {NAMESPACE} that these tests did not make: they begin with nothing. "
                f"`kubectl delete namespace {NAMESPACE}` takes it down, with its data"
            )
        self.take_down()

    def take_down(self) -> None:
        self.say(f"deleting the namespace {NAMESPACE}")
        run("kubectl", "delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=300s", seconds=330)

    def close(self) -> None:
        if hasattr(self, "ways"):
            for way in self.ways.values():
                way.close()
        if hasattr(self, "watch"):
            self.watch.close()

    def _find_ways(self) -> None:
        self.ways = {
            "ingestor": Forward(self.watch, "ingestor", 8000),
            "minio": Forward(self.watch, "minio", 9000),
            "postgres": Forward(self.watch, "postgres", 5432),
        }
        for way in self.ways.values():
            way.wait()
        self.prefix = self.cluster.variable("reconciler", "ACEQUIA_BUCKET_PREFIX")
        self._database = self.cluster.variable("auditor", "PG_DATABASE")

    def wait_ready(self, seconds: float = 300) -> None:
        self.cluster.wait_rolled_out(
            *(f"statefulset/{name}" for name in SERVERS), *(f"deployment/{name}" for name in SERVICES), seconds=seconds
        )

    def apply(self) -> None:
        """The copy of the local overlay, as it is now."""
        run("kubectl", "apply", "-k", str(self.manifests / "overlays/local"))

    # what is asked from outside

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ways['ingestor'].port}"

    def minio(self, session: aiohttp.ClientSession) -> Minio:
        secret = self.cluster.secret("acequia-minio")
        endpoint = f"127.0.0.1:{self.ways['minio'].port}"
        keys = secret["MINIO_ACCESS_KEY"], secret["MINIO_SECRET_KEY"]
        return Minio(endpoint, *keys, secure=False, region="us-east-1", session=session)

    def page(self, run_id: str) -> Document:
        answer = httpx.get(f"{self.url}/ingestions/{run_id}", timeout=30)
        page: Document = answer.json()
        return page

    def until_finished(self, run_id: str, seconds: float = 300) -> Document:
        found: Document = {}

        def finished() -> bool:
            try:
                found.update(self.page(run_id))
            except (httpx.HTTPError, ValueError):
                return False
            return bool(found.get("finished"))

        until(finished, f"run {run_id} does not finish", seconds)
        return found

    def ask(self, *arguments: str) -> Document:
        """What the `acequia` command says, as a document; its exit code must be 0."""
        said = run(ACEQUIA, *arguments, "--json", "--url", self.url, seconds=600)
        document: Document = json.loads(said)
        return document

    def queues(self) -> dict[str, int]:
        """Messages, ready and unacknowledged, by queue: those that hold any."""
        command = f"{LIST_QUEUES} name messages_ready messages_unacknowledged"
        rows = json.loads(self.cluster("exec", "rabbitmq-0", "--", "sh", "-c", command))
        held = {row["name"]: row["messages_ready"] + row["messages_unacknowledged"] for row in rows}
        assert "acequia.audit" in held, rows
        return {name: messages for name, messages in held.items() if messages}

    def objects(self, layer: str, prefix: str = "") -> dict[str, str]:
        """Key -> etag."""

        async def listed() -> dict[str, str]:
            async with aiohttp.ClientSession() as session:
                found = self.minio(session).list_objects(f"{self.prefix}-{layer}", prefix=prefix, recursive=True)
                return {entry.object_name or "": entry.etag or "" async for entry in found}

        return asyncio.run(listed())

    def remove(self, layer: str, prefix: str) -> int:
        """Objects, by whoever has the store's keys."""
        keys = self.objects(layer, prefix)

        async def removed() -> None:
            async with aiohttp.ClientSession() as session:
                store = self.minio(session)
                for key in keys:
                    await store.remove_object(f"{self.prefix}-{layer}", key)

        asyncio.run(removed())
        return len(keys)

    # users

    @contextmanager
    def users(self, count: int, seconds: float) -> Iterator[Users]:
        """`count` sources are brought within about so many seconds; at the end each is taken on."""
        users = Users(self, count, seconds)
        users.start()
        try:
            yield users
        except BaseException:
            self.say("a fault of the test's own; users are left alone")
            raise
        users.end()

    def upload(self, path: Path, rows: int) -> str:
        """The run of a file whose rows were counted by somebody else."""
        number, self.drawn = self.drawn, self.drawn + 1
        source = Source(number, "upload", f"k8s-{self.seed}-{number}", rows, content=path.read_bytes())
        answer = httpx.put(
            f"{self.url}/ingestions/files/{path.name.replace(':', '_')}",
            content=source.content,
            headers={"Idempotency-Key": source.key},
            timeout=120,
        )
        assert answer.status_code == 202, answer.text
        source.run_id = answer.json()["run_id"]
        self.sources.append(source)
        return source.run_id

    def synthetic(self, rows: int) -> str:
        number, self.drawn = self.drawn, self.drawn + 1
        source = Source(number, "request", f"k8s-{self.seed}-{number}", rows)
        body = {"kind": "synthetic", "rows": rows, "seed": number, "anomaly_rate": 0.02}
        answer = httpx.post(
            f"{self.url}/ingestions",
            json={"dataset": "network_events", "source": body},
            headers={"Idempotency-Key": source.key},
            timeout=60,
        )
        assert answer.status_code == 202, answer.text
        source.run_id = answer.json()["run_id"]
        self.sources.append(source)
        return source.run_id

    # faults

    def hurry(self, pod: str) -> None:
        """SIGTERM, and a second. What it then still has in hand is lost with it."""
        self.forced |= self.watch.uids(pod)
        self.cluster("delete", "pod", pod, "--grace-period=1", "--wait=false", "--ignore-not-found")

    def stop(self, pod: str) -> None:
        """As Kubernetes stops a pod: SIGTERM, and its time."""
        if not self.watch.is_ready(pod):  # before its first line runs, SIGTERM may not reach it
            self.forced |= self.watch.uids(pod)
        self.cluster("delete", "pod", pod, "--wait=false", "--ignore-not-found")

    # the accounting

    def settle(self, seconds: float = SETTLE_SECONDS) -> Observed:
        """Everything that users brought is through, once; Acequia's own proofs say so too. AssertionError otherwise."""
        self.wait_ready()
        began = time.monotonic()
        observed, findings, held = asyncio.run(self._settled(began + seconds))
        failures = [*findings.all, *(f"{queue} holds {messages} messages" for queue, messages in held.items())]
        assert not failures, self._shown(failures)
        self._prove()
        complaints = [*self.complaints, *self._bad_ends()]
        assert not complaints, self._shown(complaints)
        stored = sum(len(keys) for keys in observed.layers.values())
        self.say(f"settled in {time.monotonic() - began:.0f} s: {len(self.sources)} sources, {stored} objects")
        return observed

    async def _settled(self, end: float) -> tuple[Observed, Findings, Mapping[str, int]]:
        owner, catalog = self.cluster.secret("acequia-audit-owner"), self.cluster.secret("acequia-lakehouse-catalog")
        keys = self.cluster.secret("acequia-minio")
        port = self.ways["postgres"].port
        database = {
            "host": "127.0.0.1",
            "port": port,
            "user": owner["PG_MIGRATION_USER"],
            "password": owner["PG_MIGRATION_PASSWORD"],
            "database": self._database,
        }
        lake = {
            "type": "sql",
            "uri": re.sub(r"@[^/]+/", f"@127.0.0.1:{port}/", catalog["ACEQUIA_LAKEHOUSE_CATALOG_URI"]),
            "s3.endpoint": f"http://127.0.0.1:{self.ways['minio'].port}",
            "s3.access-key-id": keys["MINIO_ACCESS_KEY"],
            "s3.secret-access-key": keys["MINIO_SECRET_KEY"],
            "s3.region": "us-east-1",
        }
        async with aiohttp.ClientSession() as session:
            reader = Reader(self.minio(session), self.prefix, database, lake)
            while True:
                try:
                    observed = await reader.observe()
                    findings = compare(self.sources, observed, self.prefix)
                    held = {} if findings.lost else await self._held()
                except Exception as error:  # a way was cut by a pod that went: another one is found
                    if time.monotonic() > end:
                        raise
                    self.say(f"looking again: {error!r:.300}")
                    await asyncio.sleep(2)
                    continue
                if not findings.lost and not held:
                    return observed, findings, {}
                what = f"{len(findings.lost)} are missing" if findings.lost else f"{len(held)} queues hold messages"
                self.say(f"settling: {what}: {(findings.lost or sorted(held))[0]}")
                if time.monotonic() > end:
                    return observed, findings, held
                await asyncio.sleep(3)

    async def _held(self) -> dict[str, int]:
        """Queues with messages. The broker counts every five seconds, and from nought when it has just come up."""
        held = await asyncio.to_thread(self.queues)
        if not held:
            await asyncio.sleep(COUNTED_EVERY)
            held = await asyncio.to_thread(self.queues)
        return held

    def _prove(self) -> None:
        """`acequia verify --settled`, `acequia audit verify`: zero orphans, and the audit knows all of it."""
        verified = self.ask("verify", "--settled", "--grace", "0")
        assert verified["ok"] is True, verified
        assert sum(row["orphans"] for row in verified["sums"]) == 0, verified
        assert verified["audit"]["ok"] is True, verified
        chain = self.ask("audit", "verify")
        assert chain["ok"] is True, chain

    def _bad_ends(self) -> list[str]:
        """Of containers, since the last time: none of ours may end by itself, or badly when it is stopped."""
        new, self._looked_at = self.watch.ended[self._looked_at :], len(self.watch.ended)
        return [f"{ended}{'' if ended.deleted else ', by itself'}" for ended in new if self._is_bad(ended)]

    def _is_bad(self, ended: Ended) -> bool:
        if ended.uid in self.forced or ended.first or ended.service not in (*SERVICES, *SERVERS):
            return False
        if ended.service in SERVERS:
            return not ended.deleted
        return ended.code != 0 or not ended.deleted

    def _shown(self, failures: Sequence[str]) -> str:
        return "\n".join([f"{len(failures)} failures (seed {self.seed})", *failures[:50]])


@contextmanager
def alone() -> Iterator[None]:
    """Nobody else on this machine takes the namespace down. BlockingIOError where somebody is at it."""
    lock = parts.cache_folder() / "k8s-test.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def next_images(tag: str, services: Sequence[str]) -> Mapping[str, str]:
    """Images that differ from those that run: service -> its name. The transformer's is of a further version."""
    made = {}
    for service in services:
        image, lines = f"acequia-{service}", [f"FROM acequia-{service}:{k8s_local.TAG}", f"LABEL acequia.test={tag}"]
        if service == "transformer":
            stage = "$(python -c 'import acequia_transformer.stage as s; print(s.__file__)')"
            changed = f"""sed -i 's/^VERSION = .*/VERSION = "2"/' "{stage}" && grep -c '^VERSION = "2"' "{stage}" """
            lines += ["USER 0", f"RUN {changed}", "USER 10001:10001"]
        run("docker", "build", "--quiet", "--tag", f"{image}:{tag}", "-", said="\n".join(lines) + "\n", seconds=600)
        made[service] = f"{image}:{tag}"
    k8s_local.load_images(k8s_local.loader(), list(made.values()))
    return made


def forget_images(images: Mapping[str, str]) -> None:
    if images:
        run("docker", "image", "rm", *images.values(), check=False)
