import hashlib
import json
from collections import Counter
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st

from acequia.cards import ModelCard, parse_card
from acequia.datasets import load_registry
from acequia.errors import RejectedInput
from acequia.samples import draw_rows, time_of_rank
from acequia.work import Outcome
from acequia_trainer.settings import TrainerSettings
from acequia_trainer.stage import build_stage
from acequia_trainer.train import compose

from .conftest import FEATURES, START, Train, candidate, silver_rows


def card_of(outcome: Outcome) -> ModelCard:
    return parse_card(json.dumps(outcome.document).encode())


@pytest.mark.parametrize("rows", [1, 2, 10])
def test_a_tiny_run_is_trained_on_whole_and_says_in_sample(train_on: Train, rows: int) -> None:
    outcome, _ = train_on([silver_rows(rows)])
    card = card_of(outcome)
    assert card.holdout.scope == "in_sample"
    assert card.holdout.cut is None
    assert card.rows_trained == card.holdout.rows == rows
    assert all(np.isfinite(card.score_quantiles))


def test_the_last_fifth_by_time_is_held_out_also_within_one_object(train_on: Train) -> None:
    outcome, _ = train_on([silver_rows(1000)])
    card = card_of(outcome)
    assert card.holdout.scope == "holdout"
    assert card.holdout.cut == (START + timedelta(seconds=800)).isoformat(timespec="microseconds")
    assert (card.rows_trained, card.holdout.rows) == (800, 200)
    assert outcome.metrics["rows_trained"] == 800
    assert outcome.metrics["rows_held_out"] == 200


def test_rows_that_are_held_out_do_not_touch_the_model(train_on: Train) -> None:
    frame = silver_rows(1000)
    late = pl.int_range(pl.len()) >= 800
    other = frame.with_columns(pl.when(late).then(pl.lit(99.0)).otherwise(pl.col(f)).alias(f) for f in FEATURES)
    assert card_of(train_on([frame])[0]).score_quantiles == card_of(train_on([other])[0]).score_quantiles


def test_labels_do_not_touch_the_model(train_on: Train) -> None:
    frame = silver_rows(500)
    other = frame.with_columns(label=pl.lit("attack"))
    assert card_of(train_on([frame])[0]).score_quantiles == card_of(train_on([other])[0]).score_quantiles


def test_training_twice_gives_the_same_scores_threshold_and_hold_out(train_on: Train) -> None:
    frames = [silver_rows(600), silver_rows(600, seed=1, start=START + timedelta(seconds=30))]
    one, two = (card_of(train_on(frames, max_rows=500)[0]) for _ in range(2))
    own = {"artifact"}  # two dumps of one model differ in bytes
    assert one.model_dump(exclude=own) == two.model_dump(exclude=own)


def test_the_cut_runs_across_all_objects_and_only_those_behind_it_are_named(train_on: Train) -> None:
    early, late = silver_rows(800), silver_rows(200, start=START + timedelta(hours=1))
    card = card_of(train_on([late], window=[early])[0])
    assert [data.rows for data in card.inputs] == [200]
    assert [data.rows for data in card.window] == [800]
    assert [(data.etag, data.rows) for data in card.holdout.inputs] == [("etag1", 200)]


def test_rows_of_one_time_stay_on_one_side_of_the_cut(train_on: Train) -> None:
    frame = silver_rows(1000).with_columns(
        pl.when(pl.int_range(pl.len()) >= 700)
        .then(pl.lit(START + timedelta(days=1)))
        .otherwise("timestamp")
        .alias("timestamp")
    )
    card = card_of(train_on([frame])[0])
    assert (card.rows_trained, card.holdout.rows) == (700, 300)


def test_rows_that_all_have_one_time_are_trained_on_in_sample(train_on: Train) -> None:
    card = card_of(
        train_on([silver_rows(1000).with_columns(timestamp=pl.lit(START).cast(pl.Datetime("us", "UTC")))])[0]
    )
    assert card.holdout.scope == "in_sample"
    assert card.rows_trained == 1000


def test_constant_features_and_durations_that_were_never_measured_are_no_obstacle(train_on: Train) -> None:
    frame = silver_rows(300).with_columns(
        pl.lit(1.0).alias("log_bytes"), pl.lit(None, dtype=pl.Float64).alias("log_duration")
    )
    card = card_of(train_on([frame])[0])
    assert card.rows_trained == 240
    assert card.score_quantiles[0] < card.score_quantiles[100]


def test_of_more_rows_than_the_setting_a_sample_is_trained_on(train_on: Train) -> None:
    card = card_of(train_on([silver_rows(1000)], max_rows=100)[0])
    assert (card.rows_available, card.rows_trained, card.holdout.rows) == (1000, 100, 200)


def test_the_card_tells_data_parameters_libraries_hash_and_threshold(train_on: Train) -> None:
    outcome, work = train_on([silver_rows(1000)], [silver_rows(10)], contamination=0.1)
    card = card_of(outcome)
    (model,) = outcome.beside
    data = model.path.read_bytes()
    assert card.artifact.sha256 == hashlib.sha256(data).hexdigest()
    assert card.artifact.bytes == len(data)
    assert card.artifact.key == model.key
    assert model.key.startswith(
        f"network_events/date=2025-12-20/{work.stem}.v1-aaaaaa/model-{card.artifact.sha256[:16]}"
    )
    assert card.model == f"{work.stem}.v1-aaaaaa"
    assert [(d.key, d.etag) for d in card.inputs] == [(work.inputs[0].key, "etag1")]
    assert [p.int for p in card.parents] == [1, 2]
    assert card.plan.key == "plans/trainer/network_events/000003.json"
    assert card.features == FEATURES
    assert card.parameters["contamination"] == 0.1
    assert set(card.libraries) == {"python", "polars", "scikit-learn", "skops", "numpy"}
    assert card.score_quantiles == tuple(sorted(card.score_quantiles))
    assert card.threshold == pytest.approx(card.score_quantiles[90])


def test_a_far_outlier_scores_higher_than_what_was_trained_on(train_on: Train) -> None:
    outcome, _ = train_on([silver_rows(1000)])
    model = skops.io.load(outcome.beside[0].path, trusted=["numpy.dtype", "sklearn.tree._tree.Tree"])
    assert -model.score_samples(np.full((1, len(FEATURES)), 50.0))[0] > card_of(outcome).score_quantiles[99]


def test_an_object_without_the_features_is_skipped_and_named_with_the_reason(train_on: Train) -> None:
    old = silver_rows(50).drop("log_fan_out")
    card = card_of(train_on([silver_rows(100)], window=[old])[0])
    assert card.rows_available == 100
    assert [s.reason for s in card.skipped] == ["has no log_fan_out"]


def test_a_plan_without_one_usable_object_is_rejected(train_on: Train) -> None:
    with pytest.raises(RejectedInput, match="nothing_to_train_on"):
        train_on([b"no parquet", silver_rows(0)])


def test_the_newest_earlier_objects_are_chosen_within_rows_and_objects() -> None:
    window = [candidate(n, 400) for n in range(2, 6)]
    new = [candidate(1, 100)]
    by_rows = compose(new, window, settings=TrainerSettings(window_rows=1000))
    assert [c["etag"] for c in by_rows["window"]] == ["etag2", "etag3"]
    by_objects = compose(new, window, settings=TrainerSettings(window_objects=1))
    assert [c["etag"] for c in by_objects["window"]] == ["etag2"]
    assert by_rows["holdout"] == {"fraction": 0.2, "by": "event_time"}
    assert json.loads(json.dumps(by_rows)) == by_rows


def test_an_object_of_unknown_size_counts_as_a_large_one() -> None:
    chosen = compose([candidate(1, 100)], [candidate(2, None)], settings=TrainerSettings(window_rows=1000))
    assert chosen["window"] == []


def test_gathering_and_threads_are_no_part_of_the_variant_but_the_seed_is() -> None:
    registry = load_registry()
    plain = build_stage(TrainerSettings(), registry).variant
    assert build_stage(TrainerSettings(gather_quiet=0, gather_most=0, n_jobs=2), registry).variant == plain
    assert build_stage(TrainerSettings(seed=8), registry).variant != plain


@settings(max_examples=60, deadline=None)
@given(
    files=st.lists(st.lists(st.integers(0, 4_000_000_000_000_000), min_size=0, max_size=20), min_size=1, max_size=3),
    data=st.data(),
)
def test_the_time_at_a_rank_is_that_of_the_sorted_rows(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[int]], data: st.DataObject
) -> None:
    everything = sorted(t for times in files for t in times)
    if not everything:
        return
    rank = data.draw(st.integers(0, len(everything) - 1))
    folder = tmp_path_factory.mktemp("times")
    paths: list[Path] = []
    for n, times in enumerate(files):
        paths.append(folder / f"{n}.parquet")
        column = pl.Series("at", times, dtype=pl.Int64).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        column.to_frame().write_parquet(paths[-1])
    found = time_of_rank(paths, "at", rank)
    micros = int(found.timestamp()) * 1_000_000 + found.microsecond
    assert micros == everything[rank]


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=4), at_most=st.integers(1, 60), seed=st.integers(0, 9))
def test_a_sample_has_distinct_rows_in_order_as_many_as_wanted(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], at_most: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    paths: list[Path] = []
    begin = 0
    for n, size in enumerate(sizes):
        paths.append(folder / f"{n}.parquet")
        pl.DataFrame({"n": list(range(begin, begin + size))}, schema={"n": pl.Int64}).write_parquet(paths[-1])
        begin += size
    keep = pl.col("n") % 3 != 1
    there = [n for n in range(begin) if n % 3 != 1]
    drawn = draw_rows(paths, ["n"], keep, at_most=at_most, seed=seed)["n"].to_list()
    assert len(drawn) == min(at_most, len(there))
    assert set(drawn) <= set(there)
    assert drawn == sorted(drawn)
    assert max(Counter(drawn).values(), default=1) == 1
