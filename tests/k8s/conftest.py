"""Tests on a real cluster: `make k8s-test`. Without ACEQUIA_REQUIRE_K8S=1 they are not collected.

They use the cluster of kubectl's current context, and the namespace `acequia`, which must not be there before and is
gone afterwards (ACEQUIA_K8S_KEEP=1: it stays). What fails prints the pods' events and logs.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from k8s.form import KEEP, REQUIRED, SEED, SHORT

if TYPE_CHECKING:
    from k8s.place import Place

TOLD: list[str] = []
REPORTS = Path(os.environ.get("ACEQUIA_K8S_REPORTS") or ".k8s-reports")
NOT_STARTED = "not-started.txt"
"""Report of a cluster that started no container of a workload: `.ci/run` tries a new one then."""

collect_ignore_glob = [] if REQUIRED else ["test_*.py"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: left out in the short form")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not (SHORT and item.get_closest_marker("long"))]


def say(line: str) -> None:
    sys.stderr.write(f"k8s {datetime.now(UTC):%H:%M:%S} {line}\n")


def reported(place: "Place", name: str, most: int) -> tuple[str, Path]:
    """What the cluster says of all pods, and the file of that name where it lies."""
    try:
        said = place.cluster.report(most)
    except Exception as error:  # noqa: BLE001  what failed is told in any case
        said = f"the cluster does not tell: {error!r}"
    REPORTS.mkdir(parents=True, exist_ok=True)
    path = REPORTS / name
    path.write_text(said)
    return said, path


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """The local overlay, up."""
    from k8s.cluster import NotStarted, run, why_not
    from k8s.place import Place, alone

    if (reason := why_not()) is not None:
        pytest.fail(f"ACEQUIA_REQUIRE_K8S=1, but {reason}", pytrace=False)
    with ExitStack() as held:
        try:
            held.enter_context(alone())
        except BlockingIOError:
            pytest.fail("another `make k8s-test` is at work on this machine: wait for its end", pytrace=False)
        context = run("kubectl", "config", "current-context").strip()
        say(f"seed {SEED}, context {context}, the {'short' if SHORT else 'long'} form")
        place = Place(SEED, say)
        TOLD.append(f"seed                {SEED}")
        (REPORTS / NOT_STARTED).unlink(missing_ok=True)
        try:
            place.bring_up(tmp_path_factory.mktemp("k8s"))
            yield place
        except BaseException as error:
            name = NOT_STARTED if isinstance(error, NotStarted) else "place.txt"
            sys.stderr.write(reported(place, name, most=60)[0])
            raise
        finally:
            TOLD.extend(place.told)
            place.close()
            if not KEEP and place.made:
                place.take_down()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()
    place = getattr(item, "funcargs", {}).get("place")
    if report.when == "call" and report.failed and place is not None:
        said, path = reported(place, f"{item.name}.txt", most=400)
        report.sections.append((f"the cluster (all of it: {path})", said[-30_000:]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TOLD:
        terminalreporter.section("Kubernetes")
        terminalreporter.write_line("\n".join(TOLD))
