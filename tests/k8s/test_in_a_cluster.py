"""The local overlay in a real cluster: what users bring comes through once, whatever happens to the pods.

The tests are one story: each begins with what the one before left, and ends with all accounts settled.
"""

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from subprocess import TimeoutExpired
from uuid import uuid4

import pytest
import yaml

from acequia_ingestor.api import keyed_run_id
from chaos.load import Source
from harness.kustomize import read_all
from harness.variables import ROOT, SERVICES
from k8s.cluster import NAME, Failed, run, until
from k8s.form import SHORT
from k8s.place import NAMESPACE, SERVERS, Place, forget_images, next_images

pytestmark = pytest.mark.timeout(2400)
long = pytest.mark.long

ROLLED = ("transformer",) if SHORT else SERVICES
STAGES = ("ingestor", "transformer", "trainer", "lakehouse", "evaluator")
LOG = "zeek-samples/conn.tsv.log", 360
LOGS = {
    "zeek-iot23/CTU-Malware-Capture-34-1-labeled.csv": 23_145,
    "zeek-strato/011-conn.log.labeled": 9_048,
    "zeek-samples/conn.json.log": 50,
}
"""Real logs and their records, as they were counted with awk and Python's csv (tests/unit/ingestor)."""
HOURS = (2426, 1380, 1156, 1082, 1417, 1488, 1094, 4179, 1148, 1472, 1133, 1840)
HOURS += (1179, 1068, 1044, 1574, 1406, 1392, 1310, 1614, 1530, 1106, 1179, 1261)
DELETE_SECONDS = 90.0
IN_FLIGHT, WAVE = 200, 200
"""Objects that are to be under way while pods are deleted; the sources that come at once where there are few."""
TREES = "1500"
"""A training that lasts for some seconds."""
BACKLOG, BACKLOG_ROWS = 80, 100_000
"""It keeps one transformer busy for longer than an autoscaler takes to look."""
JOB = ROOT / "deploy/k8s/jobs/chain.yaml"
KNOCK = """
import socket, sys
host, port = sys.argv[1].split(":")
address = socket.gethostbyname(host)  # names are asked by everybody
try:
    socket.create_connection((address, int(port)), timeout=3).close()
except OSError:
    print("closed")
else:
    print("open")
"""


def rows_add_up(page: dict) -> bool:
    return page["rows_in"] == page["rows_silver"] + page["rows_duplicate"] + page["rows_quarantined"]


# it runs


@pytest.mark.timeout(6000)  # images are built first
def test_the_overlay_comes_up_under_the_restricted_standard(place: Place) -> None:
    labels = json.loads(run("kubectl", "get", "namespace", NAMESPACE, "-o", "json"))["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for service in (*SERVICES, *SERVERS):
        (pod,) = place.watch.ready(service)
        status = place.cluster("exec", pod["metadata"]["name"], "-c", service, "--", "cat", "/proc/1/status")
        uids = status.partition("Uid:")[2].split()[:4]
        assert len(uids) == 4
        assert "0" not in uids, service
    assert place.ask("verify", "--settled", "--grace", "0")["ok"] is True


@long
def test_a_changed_setting_rolls_the_pods_that_read_it_and_no_others(place: Place) -> None:
    """The reconciler looks more often from here on: what is lost with the broker comes back sooner."""
    before = {service: place.watch.ready(service)[0]["metadata"]["name"] for service in (*SERVICES, *SERVERS)}
    settings = place.manifests / "base/settings/reconciler.env"
    text = settings.read_text()
    for name, value in (("INTERVAL", "10"), ("GRACE", "20")):
        text, found = re.subn(rf"(?m)^(ACEQUIA_RECONCILER_{name})=.*$", rf"\1={value}", text)
        assert found == 1
    settings.write_text(text)
    place.apply()
    place.wait_ready()
    until(lambda: len(place.watch.pods("reconciler")) == 1, "two reconcilers", 120)
    after = {service: place.watch.ready(service)[0]["metadata"]["name"] for service in (*SERVICES, *SERVERS)}
    assert {service for service in before if before[service] != after[service]} == {"reconciler"}
    assert place.cluster.variable("reconciler", "ACEQUIA_RECONCILER_INTERVAL") == "10"


def test_a_real_log_comes_through_although_a_pod_on_its_way_is_deleted(place: Place, real_data: Path) -> None:
    name, rows = LOG
    place.cluster("scale", "deployment/transformer", "--replicas=0")
    until(lambda: not place.watch.pods("transformer"), "the transformer is still there", 120)
    run_id = place.upload(real_data / name, rows)
    until(lambda: place.queues().get("acequia.transformer"), "nothing waits for the transformer", 120)
    place.cluster("scale", "deployment/transformer", "--replicas=1")
    until(lambda: place.watch.pods("transformer"), "no transformer comes", 120, pause=0.1)
    (transformer,) = place.watch.pods("transformer")
    place.hurry(transformer["metadata"]["name"])
    assert not place.page(run_id).get("finished"), "it was through before"
    page = place.until_finished(run_id)
    assert page["state"] == "done"
    assert page["rows_in"] == rows
    assert rows_add_up(page)
    place.settle()


@long
def test_real_logs_come_through_and_every_row_is_accounted_for(place: Place, real_data: Path) -> None:
    files = {real_data / name: rows for name, rows in LOGS.items()}
    hours = sorted((real_data / "zeek-rita").glob("*.gz"))
    files |= dict(zip(hours, HOURS, strict=True))
    began = time.monotonic()
    runs = {path: place.upload(path, rows) for path, rows in files.items()}
    for path, run_id in runs.items():
        page = place.until_finished(run_id)
        assert (page["state"], page["rows_in"]) == ("done", files[path]), path
        assert rows_add_up(page), path
        assert page["rows_quarantined"] <= 0.01 * page["rows_in"], path
    place.told.append(f"real logs           {len(files)}, {sum(files.values())} rows, {time.monotonic() - began:.0f} s")
    place.settle()


# the Job


def job(**changes: str) -> dict:
    """jobs/chain.yaml under a name of its own, with other arguments."""
    (document,) = read_all(JOB.read_text())
    document["metadata"]["name"] = f"chain-{uuid4().hex[:6]}"
    args = document["spec"]["template"]["spec"]["containers"][0]["args"]
    for name, value in changes.items():
        args[args.index(f"--{name}") + 1] = value
    return document


def ended(place: Place, document: dict, seconds: float = 300) -> tuple[str, str]:
    """Apply a Job and wait: the condition that it ends with, and its log."""
    name = document["metadata"]["name"]
    place.cluster("apply", "-f", "-", said=yaml.safe_dump(document))
    found: list[str] = []

    def over() -> bool:
        conditions = place.cluster.get("job", name)["status"].get("conditions", ())
        found[:] = [c["type"] for c in conditions if c["status"] == "True" and c["type"] in ("Complete", "Failed")]
        return bool(found)

    until(over, f"the Job {name} does not end", seconds)
    return found[0], place.cluster("logs", f"job/{name}", "--tail=-1")


def test_one_job_is_a_whole_chain_with_its_summary_as_its_log_and_the_right_end(place: Place) -> None:
    document = job(rows="1000")
    condition, log = ended(place, document)
    assert condition == "Complete", log
    uid = place.cluster.get("job", document["metadata"]["name"])["metadata"]["uid"]
    source = Source(place.drawn, "request", uid, 1000, run_id=str(keyed_run_id(uid)))
    place.sources.append(source)
    place.drawn += 1
    page = place.page(source.run_id)
    assert page["state"] == "done"
    assert source.run_id in log
    assert "1,000" in log, log
    for layer in ("raw", "silver", "models", "eval"):
        assert page["artifacts"][layer], layer
    wrong = job(rows="0")
    condition, log = ended(place, wrong)
    assert condition == "Failed", log
    pods = place.cluster.items("pods", "-l", f"batch.kubernetes.io/job-name={wrong['metadata']['name']}")
    codes = [c["state"]["terminated"]["exitCode"] for pod in pods for c in pod["status"]["containerStatuses"]]
    assert codes == [2]  # once: asked for wrongly, it would be so again
    place.settle()


# who reaches whom


def test_the_network_lets_through_the_arrows_of_the_design_alone(place: Place) -> None:
    ways = {
        ("auditor", "postgres:5432"): True,
        ("lakehouse", "postgres:5432"): True,
        ("ingestor", "auditor:8000"): True,
        ("transformer", "minio:9000"): True,
        ("transformer", "postgres:5432"): False,
        ("transformer", "auditor:8000"): False,
        ("trainer", "ingestor:8000"): False,
        ("trainer", "rabbitmq:15672"): False,
        ("ingestor", "postgres:5432"): False,
    }
    for (service, address), is_open in ways.items():
        said = place.cluster("exec", f"deployment/{service}", "-c", service, "--", "python", "-c", KNOCK, address)
        assert said.strip() == ("open" if is_open else "closed"), (service, address)


# what happens to pods


@long
def test_pods_are_deleted_at_random_while_hundreds_of_objects_are_in_flight(place: Place) -> None:
    rng, counts = Random(f"{place.seed} deletes"), []
    deleted: Counter[str] = Counter()
    with ExitStack() as waves:
        users = waves.enter_context(place.users(2 * WAVE, 10))
        until(lambda: under_way(place) >= IN_FLIGHT, "the queues do not fill", 120, pause=0.2)
        end = time.monotonic() + DELETE_SECONDS
        while time.monotonic() < end:
            service = rng.choice((*SERVICES, *SERVICES, *SERVERS))  # servers half as often
            hurry, which, pause = rng.random() < 0.5, rng.random(), rng.uniform(2, 7)
            pods = place.watch.pods(service)
            if pods and (service in SERVICES or place.watch.ready(service)):
                counts.append(under_way(place))
                pod = pods[int(which * len(pods))]["metadata"]["name"]
                # a server has the time that it needs
                hurried = hurry and service in SERVICES
                (place.hurry if hurried else place.stop)(pod)
                deleted[f"{service} {'hurried' if hurried else 'stopped'}"] += 1
            if counts and counts[-1] < 2 * IN_FLIGHT and not users.busy():
                users = waves.enter_context(place.users(WAVE, 5))
            time.sleep(pause)
    among = sum(count >= IN_FLIGHT for count in counts)
    said = f"{len(counts)} pods deleted, {among} of them with {IN_FLIGHT} to {max(counts)} objects under way"
    place.say(f"{said}: {dict(deleted)}")
    place.told.append(f"pods deleted        {said}")
    assert among >= 8, counts
    place.settle()


def under_way(place: Place) -> int:
    """What waits for a stage, or is in its hands; none where the broker has just gone."""
    try:
        held = place.queues()
    except (Failed, TimeoutExpired, ValueError, LookupError, TypeError, AssertionError):
        return 0
    return sum(held.get(f"acequia.{stage}", 0) for stage in STAGES)


@long
def test_each_server_is_restarted_while_users_go_on(place: Place) -> None:
    for server in SERVERS:
        with place.users(60, 15) as users:
            place.cluster("rollout", "restart", f"statefulset/{server}")
            until(lambda server=server: not place.watch.ready(server), f"{server} stays", 60, pause=0.1)
            assert users.busy(), f"the users had ended before {server} went"
            place.cluster.wait_rolled_out(f"statefulset/{server}")
    place.settle()


@long
def test_each_stage_goes_from_one_to_three_and_back_while_users_go_on(place: Place) -> None:
    for stage in STAGES:
        with place.users(40, 30) as users:
            place.cluster("scale", f"deployment/{stage}", "--replicas=3")
            until(lambda stage=stage: len(place.watch.ready(stage)) == 3, f"not three of {stage}", 120)
            assert users.busy(), f"the users had ended before there were three of {stage}"
            place.cluster("scale", f"deployment/{stage}", "--replicas=1")
    place.cluster.wait_rolled_out(*(f"deployment/{stage}" for stage in STAGES))
    place.settle()


@long
def test_the_trainer_is_evicted_in_the_middle_of_a_training(place: Place) -> None:
    """Its plan is handed back at once, and the next pod works it off: one model, and no message was held."""
    settings = [f"ACEQUIA_TRAINER_N_ESTIMATORS={TREES}", "ACEQUIA_STOP_GRACE=1"]
    place.cluster("set", "env", "deployment/trainer", *settings)
    place.cluster.wait_rolled_out("deployment/trainer")
    until(lambda: len(place.watch.pods("trainer")) == 1, "two trainers", 120)
    before = set(starts(place))
    run_id = place.synthetic(20_000)
    until(lambda: set(starts(place)) - before, "no training starts", 120, pause=0.2)
    (plan,) = {key.partition(".start-")[0] for key in set(starts(place)) - before}
    (pod,) = place.watch.pods("trainer")
    place.cluster.evict(pod["metadata"]["name"])
    until(lambda: not place.watch.is_there(pod["metadata"]["name"]), "it is not evicted", 60, pause=0.1)
    assert not place.page(run_id).get("finished"), "the training had ended: it was not in its middle"
    page = place.until_finished(run_id)
    assert page["state"] == "done"
    assert len([key for key in starts(place) if key.startswith(f"{plan}.")]) >= 2
    place.cluster("set", "env", "deployment/trainer", *(f"{entry.partition('=')[0]}-" for entry in settings))
    place.settle()


def starts(place: Place) -> list[str]:
    return [key for key in place.objects("ledger", "plans/trainer/network_events/") if ".start-" in key]


# a new version


@pytest.fixture
def newer(place: Place) -> Iterator[Callable[[str], None]]:
    """Roll everything to images of a tag, as somebody does it who changes the overlay."""
    images = next_images("k8s-next", ROLLED)
    overlay = place.manifests / "overlays/local/kustomization.yaml"

    def roll_to(tag: str) -> None:
        text = yaml.safe_load(overlay.read_text())
        for image in text["images"]:
            if image["name"].removeprefix("acequia-") in ROLLED:
                image["newTag"] = tag
        overlay.write_text(yaml.safe_dump(text))
        place.apply()
        place.wait_ready(600)

    yield roll_to
    roll_to("k8s")
    forget_images(images)


def test_a_rollout_to_a_new_version_leaves_the_past_alone_and_marks_what_is_new(
    place: Place, newer: Callable[[str], None]
) -> None:
    before = place.objects("silver")
    assert before
    assert all(".v1-" in key for key in before)
    with place.users(10 if SHORT else 90, 20 if SHORT else 60):
        newer("k8s-next")
        for service in ROLLED:
            pods = place.watch.ready(service)
            assert pods, service
            for pod in pods:
                assert all(c["image"].endswith(":k8s-next") for c in pod["spec"]["containers"]), service
    place.settle()
    while_rolling = place.objects("silver")
    place.synthetic(500)
    place.settle()
    after = place.objects("silver")
    assert before.items() <= while_rolling.items() <= after.items()
    new = after.keys() - while_rolling.keys()
    assert new
    assert all(".v2-" in key for key in new)
    if not SHORT:
        newer("k8s")  # and back
        place.synthetic(500)
        place.settle()
        back = place.objects("silver")
        assert after.items() <= back.items()
        new = back.keys() - after.keys()
        assert new
        assert all(".v1-" in key for key in new)
    stems = Counter(key.partition(".v")[0] for key in place.objects("silver"))
    assert set(stems.values()) == {1}  # nothing was made twice


# by the length of queues


@long
def test_a_stage_sleeps_until_its_queue_fills_goes_to_three_and_sleeps_again(place: Place) -> None:
    if not run("kubectl", "get", "crd", "scaledobjects.keda.sh", "--ignore-not-found").strip():
        pytest.fail(
            "the cluster has no KEDA: install it, or leave this test out by ARGS='--deselect ...'", pytrace=False
        )
    mine = place.manifests / "overlays/by-queues"
    mine.mkdir()
    kustomization = {
        "namespace": NAMESPACE,
        "resources": ["../local"],
        "components": ["../../components/autoscale-queue"],
    }
    (mine / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    run("kubectl", "apply", "-k", str(mine))

    def replicas() -> int:
        return int(place.cluster.get("deployment", "transformer")["status"].get("readyReplicas", 0))

    try:
        until(lambda: not place.watch.pods("transformer"), "the transformer does not go to sleep", 300)
        # what comes is to lie there, so that three are wanted at once
        place.cluster("annotate", "scaledobject", "transformer", "autoscaling.keda.sh/paused-replicas=0")
        runs = [place.synthetic(BACKLOG_ROWS) for _ in range(BACKLOG)]
        waiting = "acequia.transformer"
        until(lambda: place.queues().get(waiting, 0) >= BACKLOG, "not all of it waits", 600, pause=2)
        place.cluster("annotate", "scaledobject", "transformer", "autoscaling.keda.sh/paused-replicas-")
        until(lambda: replicas() == 3, "three are not there", 300)
        for run_id in runs:
            assert place.until_finished(run_id, 600)["state"] == "done"
        until(lambda: not place.watch.pods("transformer"), "it does not sleep again", 600, pause=2)
    finally:
        place.cluster("delete", "scaledobject", "--all")
        place.cluster("delete", "triggerauthentication", "--all")
        place.cluster("delete", "networkpolicy", "keda", check=False)
        place.cluster("scale", *(f"deployment/{stage}" for stage in STAGES), "--replicas=1")
    place.settle()


# losing the database


@long
def test_the_audit_is_filled_again_from_the_store_after_the_database_is_lost(place: Place) -> None:
    """Its volume is gone, without a backup: the audit's records and the lakehouse's catalog."""
    until(lambda: place.objects("ledger", "anchors/"), "the chain is not anchored", 400, pause=5)
    known = place.ask("audit", "verify")["records"]
    concerned = ("auditor", "lakehouse")
    place.cluster("scale", *(f"deployment/{service}" for service in concerned), "--replicas=0")
    for service in concerned:
        place.cluster("wait", "--for=delete", "pod", "-l", f"{NAME}={service}", "--timeout=90s")
    place.cluster("delete", "statefulset", "postgres", "--wait")
    place.cluster("delete", "pvc", "data-postgres-0", "--wait")
    until(lambda: not place.watch.pods("postgres"), "it is still there", 120)
    run_id = place.synthetic(300)  # users go on without it
    # tables are made anew from SILVER: docs/lakehouse.md
    assert place.remove("ledger", "plans/lakehouse/network_events/")
    assert place.remove("lake", "network_events/")
    place.apply()
    place.cluster.wait_rolled_out("statefulset/postgres")
    # its first container makes the schema and the role; what it stores by itself of the last hour is to be left to the
    # rebuild
    place.cluster("set", "env", "deployment/auditor", "ACEQUIA_AUDITOR_CATCH_UP_WINDOW=1")
    place.cluster("scale", *(f"deployment/{service}" for service in concerned), "--replicas=1")
    place.wait_ready()
    rebuilt = place.ask("audit", "rebuild")
    assert rebuilt["stored"] > 0, rebuilt
    place.ask("sweep")
    place.cluster("set", "env", "deployment/auditor", "ACEQUIA_AUDITOR_CATCH_UP_WINDOW-")
    page = place.until_finished(run_id)
    assert page["state"] == "done"
    place.settle()
    chain = place.ask("audit", "verify")
    place.told.append(
        f"audit rebuild       {json.dumps(rebuilt)[:200]}; {known} records before, {chain['records']} now"
    )
    assert chain["previous"], "the chain does not say that it begins anew"


@long
def test_in_the_end_nothing_is_left_behind(place: Place) -> None:
    observed = place.settle()
    left = {}
    for service in SERVICES:
        (pod,) = place.watch.ready(service)
        said = place.cluster(
            "exec", pod["metadata"]["name"], "-c", service, "--", "find", "/var/lib/acequia/tmp", "-mindepth", "2"
        )
        if said.strip():
            left[service] = said.split()
    assert left == {}
    stored = {layer: len(keys) for layer, keys in observed.layers.items()}
    place.told.append(f"sources             {len(place.sources)}; answers: {dict(place.answers)}")
    place.told.append("objects stored      " + ", ".join(f"{n} {layer}" for layer, n in stored.items()))
