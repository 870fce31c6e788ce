"""Wait for runs to finish, while a person is shown how far they are."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from acequia_cli.chain import Page, chain
from acequia_cli.client import Api
from acequia_cli.complaints import ServerAway

SILENCE = 60.0
"""Seconds without news after which a person is told what is waited for."""
AWAY = 60.0
"""Seconds for which a server may not answer, while it is waited for."""
PAUSE = 0.08
PAUSE_MOST = 1.0


@dataclass(slots=True)
class Watched:
    """A run that is waited for."""

    run_id: str
    label: str
    """What a person calls it: the file's name, or the kind of source."""
    began: float = field(default_factory=time.monotonic)
    page: Page = field(default_factory=dict)
    first: Page | None = None
    """The page of the run that brought the same content before."""
    seconds: float | None = None
    """From the request to the end, once it is there."""
    news: float = field(default_factory=time.monotonic)

    @property
    def finished(self) -> bool:
        return self.seconds is not None

    @property
    def succeeded(self) -> bool:
        """Whether the whole chain is done: by this run or, for the same content, by the first."""
        return self.finished and (self.first or self.page).get("state") == "done"


class View(Protocol):
    """Where a person looks meanwhile."""

    def show(self, watched: Sequence[Watched]) -> None: ...

    def say(self, text: str) -> None: ...


async def follow(api: Api, watched: Sequence[Watched], view: View, *, at_most: float | None = None) -> None:
    """Return when each run is finished, or after `at_most` seconds. ServerAway where nobody answers for a minute."""
    began = time.monotonic()
    away_since: float | None = None
    pause = PAUSE
    while unfinished := [w for w in watched if not w.finished]:
        try:
            moved = [await _look(api, w) for w in unfinished]
            away_since = None
            pause = PAUSE if any(moved) else min(pause * 1.1, PAUSE_MOST)
        except ServerAway as away:
            if away_since is None:
                view.say(f"{away}. What was accepted goes on; still waiting.")
                away_since = time.monotonic()
            if time.monotonic() - away_since > AWAY:
                raise
            pause = PAUSE_MOST
        view.show(watched)
        if at_most is not None and time.monotonic() - began >= at_most:
            return
        for one in unfinished:
            if not one.finished and away_since is None and time.monotonic() - one.news > SILENCE:
                view.say(_hint(one))
                one.news = time.monotonic()
        if not all(w.finished for w in watched):
            await asyncio.sleep(pause)


async def _look(api: Api, one: Watched) -> bool:
    """Ask once; whether there is news."""
    page = await api.run(one.run_id)
    if page.get("finished") and page.get("state") == "same_content" and page.get("same_as"):
        one.first = await api.run(str(page["same_as"]))
        if one.first.get("finished"):
            page = await api.run(one.run_id)  # its numbers are the first run's, which may have just come
    moved = bool(_news(page) != _news(one.page))
    one.page = page
    if moved:
        one.news = time.monotonic()
    if page.get("finished") and (one.first is None or one.first.get("finished")):
        one.seconds = time.monotonic() - one.began
    return moved


def _news(page: Page) -> Any:
    """What differs where something happened."""
    stages = page.get("stages") or {}
    return page.get("state"), page.get("pending"), {name: len(events) for name, events in stages.items()}


def _hint(one: Watched) -> str:
    step = next((s for s in chain(one.page) if not s.ended), None)
    if step is None:
        return f"{one.label}: nothing new for {SILENCE:.0f} s."
    why = f" Its last attempt failed: {step.detail}." if step.progress == "retrying" else ""
    return (
        f"{one.label}: nothing new for {SILENCE:.0f} s, waiting for the {step.stage} ({step.name}).{why} "
        "Is it running? Its log, and `docker compose ps`, tell. Ctrl-C stops waiting, not the run."
    )
