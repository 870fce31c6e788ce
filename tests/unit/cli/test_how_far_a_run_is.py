from typing import Any

import pytest

from acequia_cli.chain import chain

from .conftest import SILVER, bare_page, done_page, event, page


def told(document: dict[str, Any]) -> dict[str, str]:
    return {step.name: str(step.progress) for step in chain(document)}


def test_right_after_the_202_the_run_is_at_the_ingestor():
    assert told(bare_page()) == {
        "ingest": "running",
        "transform": "waiting",
        "lake": "waiting",
        "train": "waiting",
        "evaluate": "waiting",
    }


def test_a_whole_chain_has_its_rows_at_each_step():
    steps = chain(done_page())

    assert [(s.name, str(s.progress), s.rows) for s in steps] == [
        ("ingest", "done", 12),
        ("transform", "done", 10),
        ("lake", "done", 10),
        ("train", "done", 8),
        ("evaluate", "done", 2),
    ]
    assert [s.seconds for s in steps] == [0.5] * 5


def test_a_source_in_parts_is_transformed_when_each_part_is():
    some = page("running", event("ingestor"), event("transformer"), raw_objects=2, artifacts={"silver": [SILVER]})
    both = page(
        "running",
        event("ingestor"),
        event("transformer"),
        event("transformer", "REJECTED"),
        raw_objects=2,
        artifacts={"silver": [SILVER]},
    )

    assert told(some)["transform"] == "running"
    assert chain(some)[1].detail == "1 of 2"
    assert told(both)["transform"] == "done"
    assert chain(both)[1].detail == "1 of 2 rejected or failed"


def test_training_goes_on_while_an_object_is_in_no_training():
    covered = event("trainer", inputs=[{"uri": SILVER}], inputs_count=1)
    one_left = page(
        "running",
        event("ingestor"),
        event("transformer"),
        event("transformer"),
        covered,
        raw_objects=2,
        artifacts={"silver": [SILVER, SILVER + "2"]},
    )

    assert told(one_left)["train"] == "running"
    assert told({**one_left, "artifacts": {"silver": [SILVER]}})["train"] == "done"


def test_what_comes_after_a_rejection_is_not_reached():
    rejected = page("rejected", event("ingestor", "REJECTED", error={"message": "no rows"}))

    assert told(rejected) == {
        "ingest": "rejected",
        "transform": "not reached",
        "lake": "not reached",
        "train": "not reached",
        "evaluate": "not reached",
    }


def test_an_attempt_that_failed_shows_why_while_another_is_to_come():
    failing = page("running", event("ingestor"), event("transformer", "FAILED", error={"message": "disk full"}))

    step = chain(failing)[1]

    assert (str(step.progress), step.detail) == ("retrying", "disk full")


def test_a_step_that_died_has_failed():
    assert told(page("failed", event("ingestor"), event("transformer", "DEAD")))["transform"] == "failed"


def test_the_same_content_takes_its_own_time_not_the_time_since_the_first():
    first = event("ingestor", run_id="of another", started="2025-12-01T00:00:00Z", finished="2025-12-01T00:00:01Z")
    same = page("same_content", first, event("ingestor", "SAME_CONTENT"), rows_raw=12)

    step = chain(same)[0]

    assert (str(step.progress), step.seconds) == ("same content", pytest.approx(0.5))
