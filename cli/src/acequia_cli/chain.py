"""How far a run is, stage by stage, told from its page. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

Page = Mapping[str, Any]
"""What GET /ingestions/{run_id} answers; right after the 202 it has but a few of its fields."""

LISTED_MOST = 100
"""Inputs of an event that a page lists."""


class Progress(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    RETRYING = "retrying"
    DONE = "done"
    SAME_CONTENT = "same content"
    REJECTED = "rejected"
    FAILED = "failed"
    NOT_REACHED = "not reached"


ENDED = frozenset({Progress.DONE, Progress.SAME_CONTENT, Progress.REJECTED, Progress.FAILED, Progress.NOT_REACHED})


@dataclass(frozen=True, slots=True)
class Step:
    """One stage of a run's chain."""

    name: str
    """What it does: one of STAGES."""
    stage: str
    """Who does it."""
    progress: Progress = Progress.WAITING
    rows: int | None = None
    seconds: float | None = None
    """From the first start to the last end, by the clocks of who worked."""
    detail: str = ""

    @property
    def ended(self) -> bool:
        return self.progress in ENDED


STAGES = {
    "ingest": "ingestor",
    "transform": "transformer",
    "lake": "lakehouse",
    "train": "trainer",
    "evaluate": "evaluator",
}


def chain(page: Page) -> tuple[Step, ...]:
    """The steps in order; the lake and the training begin at once."""
    events = {name: _Events(page, stage) for name, stage in STAGES.items()}
    ingest = _ingest(page, events["ingest"])
    go_on = ingest.progress in (Progress.DONE, Progress.SAME_CONTENT)
    transform = _step(
        page, "transform", events["transform"], _count(page, "raw_objects"), go_on, page.get("rows_silver")
    )
    go_on = go_on and transform.ended
    added = _metric(events["lake"], "rows_added")
    lake = _step(page, "lake", events["lake"], _covered(page, events["lake"]), go_on, added)
    trained = _metric(events["train"], "rows_trained")
    train = _step(page, "train", events["train"], _covered(page, events["train"]), go_on, trained)
    models = sum(1 for event in events["train"].endings if event["status"] == "SUCCESS")
    go_on = go_on and train.ended and models > 0
    rows = _metric(events["train"], "rows_held_out") or trained
    judged = rows if events["evaluate"].endings else None
    return ingest, transform, lake, train, _step(page, "evaluate", events["evaluate"], models, go_on, judged)


class _Events:
    """What one stage said of a run."""

    def __init__(self, page: Page, stage: str) -> None:
        self.stage = stage
        self.all: Sequence[Mapping[str, Any]] = (page.get("stages") or {}).get(stage, ())
        self.endings = [e for e in self.all if e["kind"] in ("outcome", "dead")]

    @property
    def trouble(self) -> str:
        """Why the last attempt failed, while another is to come."""
        last = self.all[-1] if self.all else None
        if last is None or last["status"] != "FAILED":
            return ""
        return str((last.get("error") or {}).get("message") or "an attempt failed")


def _seconds(endings: Sequence[Mapping[str, Any]]) -> float | None:
    """From the first start to the last end."""
    if not endings:
        return None
    began = min(datetime.fromisoformat(e["started"]) for e in endings)
    ended = max(datetime.fromisoformat(e["finished"]) for e in endings)
    return max(0.0, (ended - began).total_seconds())


def _ingest(page: Page, events: _Events) -> Step:
    own = [e for e in events.endings if e["run_id"] == page["run_id"]] or events.endings
    statuses = {e["status"] for e in own}
    if page.get("state") == "same_content":
        progress = Progress.SAME_CONTENT
    elif statuses & {"SUCCESS", "IMPORTED"}:
        progress = Progress.DONE
    elif "REJECTED" in statuses:
        progress = Progress.REJECTED
    elif page.get("finished"):
        progress = Progress.FAILED
    else:
        progress = Progress.RETRYING if events.trouble else Progress.RUNNING
    detail = events.trouble if progress is Progress.RETRYING else ""
    return Step("ingest", events.stage, progress, page.get("rows_raw"), _seconds(own), detail)


def _step(page: Page, name: str, events: _Events, needed: int, reached: bool, rows: int | None) -> Step:
    """`needed`: endings that make the step whole, as known now."""
    ended = len(events.endings)
    detail = f"{min(ended, needed)} of {needed}" if needed > 1 else ""
    statuses = [e["status"] for e in events.endings]
    if (reached and needed and ended >= needed) or (page.get("finished") and ended):
        if "SUCCESS" in statuses:
            progress = Progress.DONE
        else:
            progress = Progress.REJECTED if "REJECTED" in statuses else Progress.FAILED
        if (amiss := len(statuses) - statuses.count("SUCCESS")) and progress is Progress.DONE:
            detail = f"{amiss} of {ended} rejected or failed"
    elif page.get("finished"):
        progress = Progress.NOT_REACHED
    elif events.trouble:
        progress, detail = Progress.RETRYING, events.trouble
    elif reached or ended:
        progress = Progress.RUNNING
    else:
        progress = Progress.WAITING
    return Step(name, events.stage, progress, rows if ended else None, _seconds(events.endings), detail)


def _covered(page: Page, events: _Events) -> int:
    """Endings of plans that are needed: as many as there are, once each SILVER object is in one of them."""
    inputs = {i["uri"] for event in events.endings for i in event["inputs"]}
    silver = set((page.get("artifacts") or {}).get("silver", ()))
    unlisted = any(event["inputs_count"] > LISTED_MOST for event in events.endings)
    whole = bool(events.endings) and (silver <= inputs or unlisted)
    return len(events.endings) if whole else len(events.endings) + 1


def _count(page: Page, name: str) -> int:
    return int(page.get(name) or 0)


def _metric(events: _Events, name: str) -> int | None:
    """The value that the last ending measured."""
    found = [e["metrics"][name] for e in events.endings if name in (e.get("metrics") or {})]
    return int(found[-1]) if found else None
