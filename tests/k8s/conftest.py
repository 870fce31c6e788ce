"""Tests on a real cluster: `make k8s-test`. Without ACEQUIA_REQUIRE_K8S=1 they are not collected.

They use the cluster of kubectl's current context, and the namespace `acequia`, which must not be there before and is
gone afterwards (ACEQUIA_K8S_KEEP=1: it stays). What fails prints the pods' events and logs.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from k8s.form import KEEP, REQUIRED, SEED, SHORT

TOLD: list[str] = []

collect_ignore_glob = [] if REQUIRED else ["test_*.py"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: left out in the short form")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not (SHORT and item.get_closest_marker("long"))]


def say(line: str) -> None:
    sys.stderr.write(f"k8s {datetime.now(UTC):%H:%M:%S} {line}\n")


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """The local overlay, up."""
    from k8s.cluster import run, why_not
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
        try:
            place.bring_up(tmp_path_factory.mktemp("k8s"))
            yield place
        except BaseException:
            with suppress(Exception):
                sys.stderr.write(place.cluster.report())
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
        try:
            said = place.cluster.report(most=400)
        except Exception as error:  # noqa: BLE001  what failed is told in any case
            said = f"the cluster does not tell: {error!r}"
        folder = Path(os.environ.get("ACEQUIA_K8S_REPORTS") or ".k8s-reports")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{item.name}.txt").write_text(said)
        report.sections.append((f"the cluster (all of it: {folder / item.name}.txt)", said[-30_000:]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TOLD:
        terminalreporter.section("Kubernetes")
        terminalreporter.write_line("\n".join(TOLD))
