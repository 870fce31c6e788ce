"""What was taken over from elsewhere waits: it is no orphan, until somebody replays it."""

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from acequia.events import META_HELD
from acequia.layers import Layer, Stem, data_key, done_key, held_key, landing_done_id, manifest_key
from acequia.runner import Workshop, foreign_stem
from acequia_reconciler import census
from acequia_reconciler.replay import Replay, replay
from acequia_reconciler.sweep import Sweeper
from acequia_reconciler.verify import verify

from .conftest import AT, BUCKETS, DATASET, TABLE, event_of, put, stem, taken

VARIANT = "v1-ffffff"


@pytest.fixture
def variants() -> Sequence[str]:
    return (VARIANT,)


async def hold(workshop: Workshop, *stems: Stem) -> None:
    for each in stems:
        await put(workshop, Layer.LEDGER, held_key(Layer.RAW, each), b"{}")
        await put(workshop, Layer.RAW, data_key(each), acequia_held="import")


async def proved(workshop: Workshop, dataset: str = DATASET, **asked: Any) -> dict[str, int]:
    """The transformer's sum, without zeros."""
    lines = [line async for line in verify(workshop, TABLE, **{"grace": 0.0, **asked})]
    result = lines[-1]["result"]
    found = [s for s in result["sums"] if (s["reader"], s["dataset"]) == ("transformer", dataset)]
    assert all(s["objects"] == sum(s[fate.value] for fate in census.Fate) for s in found)
    assert result["ok"] == (not any(s["orphans"] for s in result["sums"]))
    return {k: n for s in found for k, n in s.items() if isinstance(n, int) and n}


async def replayed(workshop: Workshop, **asked: Any) -> list[str]:
    """Keys of what came to the transformer's replay queue."""
    async for _ in replay(workshop, TABLE, Replay(layer="raw", dataset=DATASET, **asked)):
        pass
    return [event_of(d).key for d in await taken(workshop, "acequia.transformer.replay")]


async def test_what_is_held_back_is_no_orphan_and_is_not_sent_again(workshop: Workshop) -> None:
    await hold(workshop, stem(1), stem(2))
    await put(workshop, Layer.RAW, data_key(stem(3)))
    assert await proved(workshop) == {"objects": 3, "held": 2, "orphans": 1}
    swept = await Sweeper(workshop, TABLE).sweep(grace=0)
    assert [orphan.info.key for orphan in swept.orphans] == [data_key(stem(3))]
    assert [event_of(d).key for d in await taken(workshop, "acequia.transformer")] == [data_key(stem(3))]


async def test_more_than_are_looked_at_one_by_one_are_held_back_all_the_same(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(census, "MOST_LOOKS", 2)
    await hold(workshop, *(stem(n) for n in range(1, 9)))
    assert await proved(workshop) == {"objects": 8, "held": 8}


async def test_a_mark_beside_other_stems_holds_back_none_of_them(workshop: Workshop) -> None:
    other = Stem(DATASET, AT + timedelta(days=1), "0" * 16, 1)
    await put(workshop, Layer.LEDGER, held_key(Layer.RAW, other), b"{}")
    longer = Stem(DATASET + "_more", AT, "0" * 16, 1)
    await put(workshop, Layer.LEDGER, held_key(Layer.RAW, longer), b"{}")
    await put(workshop, Layer.RAW, data_key(stem(1)))
    assert await proved(workshop) == {"objects": 1, "orphans": 1}


async def test_what_was_done_or_rejected_counts_as_that(workshop: Workshop) -> None:
    await hold(workshop, stem(1), stem(2))
    await put(workshop, Layer.SILVER, data_key(stem(1), VARIANT))
    await put(workshop, Layer.QUARANTINE, manifest_key("transformer", stem(2), VARIANT))
    assert await proved(workshop) == {"objects": 2, "done": 1, "quarantined": 1}


@pytest.mark.parametrize("asked", [{}, {"only_missing": True}])
async def test_a_replay_lets_it_go_for_good(workshop: Workshop, asked: dict[str, bool]) -> None:
    await hold(workshop, stem(1), stem(2))
    assert await replayed(workshop, **asked) == [data_key(stem(1)), data_key(stem(2))]
    # the messages are gone: it is found like any other
    assert await proved(workshop) == {"objects": 2, "orphans": 2}
    swept = await Sweeper(workshop, TABLE).sweep(grace=0)
    assert swept.sent == 2


async def test_a_replay_of_a_span_lets_go_what_lies_in_it(workshop: Workshop) -> None:
    early, late = stem(1, AT), stem(2, AT + timedelta(days=2))
    await hold(workshop, early, late)
    assert await replayed(workshop, since=AT + timedelta(days=1), only_missing=True) == [data_key(late)]
    assert await proved(workshop) == {"objects": 2, "held": 1, "orphans": 1}


async def test_a_dry_run_and_a_new_version_let_nothing_go(workshop: Workshop) -> None:
    await hold(workshop, stem(1))
    assert await replayed(workshop, stale=True) == []
    lines = [line async for line in replay(workshop, TABLE, Replay(layer="raw", dataset=DATASET, dry_run=True))]
    assert [line["object"]["uri"] for line in lines if "object" in line] == [f"s3://test-raw/{data_key(stem(1))}"]
    assert await proved(workshop) == {"objects": 1, "held": 1}


async def test_an_object_of_theirs_whose_content_was_taken_over_is_none_of_the_transformers(workshop: Workshop) -> None:
    info = await put(workshop, Layer.RAW, "network_events_20251220_121209.parquet")
    assert await proved(workshop, "_unknown") == {"objects": 1, "orphans": 1}
    done = landing_done_id(BUCKETS.of(Layer.RAW), info.key, info.etag)
    await put(workshop, Layer.LEDGER, done_key(done), json.dumps({"status": "IMPORTED"}).encode())
    assert await proved(workshop, "_unknown", grace=60.0) == {"objects": 1, "not_applicable": 1}
    swept = await Sweeper(workshop, TABLE).sweep(grace=0)
    assert swept.orphans == []
    # another version of it is another object
    await put(workshop, Layer.RAW, info.key, b"other rows")
    assert await proved(workshop, "_unknown") == {"objects": 1, "orphans": 1}


async def test_an_object_of_theirs_that_was_rejected_before_stays_in_quarantine(workshop: Workshop) -> None:
    info = await put(workshop, Layer.RAW, "network_events_20251220_121209.parquet")
    rejected = foreign_stem(info, BUCKETS.of(Layer.RAW))
    await put(workshop, Layer.QUARANTINE, manifest_key("transformer", rejected, VARIANT))
    done = landing_done_id(BUCKETS.of(Layer.RAW), info.key, info.etag)
    await put(workshop, Layer.LEDGER, done_key(done), b"{}")
    assert await proved(workshop, "_unknown") == {"objects": 1, "quarantined": 1}


def test_the_mark_of_an_object_is_named_as_it_is() -> None:
    assert held_key(Layer.RAW, stem(1)) == f"held/raw/{stem(1)}.json"
    assert META_HELD == "acequia-held"
