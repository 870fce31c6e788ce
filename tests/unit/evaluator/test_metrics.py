import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acequia_evaluator.metrics import population_stability, precision_at, rank_by_labels, recall_at_fpr


def labels(*given: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.array(given, dtype=bool)


def test_ranking_equals_what_counting_pairs_by_hand_gives() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    attack = labels(1, 0, 1, 0, 0)
    ranking = rank_by_labels(scores, attack)
    # six pairs of attack and benign, five in the right order
    assert ranking.roc_auc == pytest.approx(5 / 6)
    # the attacks stand at places 1 and 3: (1/1 + 2/3) / 2
    assert ranking.average_precision == pytest.approx(5 / 6)
    assert ranking.precision_at_positives == pytest.approx(1 / 2)
    assert ranking.precision_at_100 == pytest.approx(2 / 5)


def test_recall_at_one_percent_allows_one_false_alarm_in_a_hundred_benign_rows() -> None:
    benign = np.linspace(0.0, 0.5, 100)
    benign[-1], benign[-2] = 0.95, 0.75
    scores = np.concatenate([[0.9, 0.8, 0.7, 0.6], benign])
    attack = np.array([True] * 4 + [False] * 100)
    assert recall_at_fpr(scores, attack, 0.01) == pytest.approx(0.5)
    assert recall_at_fpr(scores, attack, 0.02) == pytest.approx(1.0)
    assert recall_at_fpr(scores, attack, 0.0) == pytest.approx(0.0)


def test_rows_tied_at_the_end_of_the_top_k_count_by_their_share() -> None:
    scores = np.array([0.9, 0.5, 0.5, 0.5, 0.1])
    attack = labels(1, 1, 0, 0, 0)
    assert precision_at(scores, attack, 2) == pytest.approx((1 + 1 / 3) / 2)
    assert precision_at(scores, attack, 100) == pytest.approx(2 / 5)


@pytest.mark.parametrize("attack", [labels(0, 0), labels(1, 1)])
def test_one_class_alone_cannot_be_ranked(attack: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
    with pytest.raises(ValueError, match="both"):
        rank_by_labels(np.array([0.1, 0.2]), attack)


def test_scores_as_in_training_have_no_drift() -> None:
    assert population_stability(list(np.linspace(0, 1, 101)), np.linspace(0, 1, 1001)[1:]) == pytest.approx(0, abs=1e-9)


def test_drift_equals_the_sum_by_hand() -> None:
    # nine bins empty (counted as 1e-4), everything in the last: (1 - .1) ln(1/.1) + 9 (1e-4 - .1) ln(1e-4/.1)
    by_hand = 0.9 * math.log(10) + 9 * (1e-4 - 0.1) * math.log(1e-4 / 0.1)
    assert population_stability(list(np.linspace(0, 1, 101)), np.full(50, 5.0)) == pytest.approx(by_hand)


def test_training_scores_that_are_all_equal_have_no_drift_against_themselves() -> None:
    assert population_stability([0.5] * 101, np.full(10, 0.5)) == pytest.approx(0, abs=1e-6)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=50),
    st.lists(st.floats(0, 1), min_size=1, max_size=50),
)
def test_drift_is_finite_and_never_negative(training: list[float], now: list[float]) -> None:
    percentiles = [float(q) for q in np.quantile(training, np.linspace(0, 1, 101))]
    drift = population_stability(percentiles, np.array(now))
    assert math.isfinite(drift)
    assert drift >= -1e-12
