"""How good a score is: pure functions of scores (higher: more anomalous) and labels (True: attack)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

Scores = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]

PSI_BINS = 10
PSI_FLOOR = 1e-4
"""Stands for an empty bin's share, whose logarithm would be infinite."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """What labels say of the order of the scores. All lie in [0, 1]; higher is better."""

    roc_auc: float
    """Chance that an attack scores above a benign row (a tie counts half)."""
    average_precision: float
    recall_at_1pct_fpr: float
    """Share of the attacks found where at most 1% of the benign rows raise an alarm."""
    precision_at_positives: float
    """Share of attacks among as many top rows as there are attacks."""
    precision_at_100: float
    """Share of attacks among the top 100 rows (or all, where there are fewer)."""


def rank_by_labels(scores: Scores, attack: Labels) -> Ranking:
    """ValueError where `attack` holds one class only: nothing can be ranked then."""
    positives = int(attack.sum())
    if positives in (0, len(attack)):
        raise ValueError("both attacks and benign rows are needed")
    return Ranking(
        roc_auc=float(roc_auc_score(attack, scores)),
        average_precision=float(average_precision_score(attack, scores)),
        recall_at_1pct_fpr=recall_at_fpr(scores, attack, 0.01),
        precision_at_positives=precision_at(scores, attack, positives),
        precision_at_100=precision_at(scores, attack, 100),
    )


def recall_at_fpr(scores: Scores, attack: Labels, most: float) -> float:
    """The highest recall of a threshold at which at most a share `most` of the benign rows scores as high."""
    false_positive, true_positive, _ = roc_curve(attack, scores, drop_intermediate=False)
    return float(true_positive[false_positive <= most].max())


def precision_at(scores: Scores, attack: Labels, k: int) -> float:
    """Share of attacks among the `k` highest scores. Of rows tied at the end, each is as likely to be among them."""
    k = min(k, len(scores))
    last = np.partition(scores, len(scores) - k)[len(scores) - k]
    above, tied = scores > last, scores == last
    places = k - int(above.sum())
    return float((attack[above].sum() + attack[tied].mean() * places) / k)


def population_stability(training_percentiles: Sequence[float], scores: Scores) -> float:
    """PSI: the sum over bins of (a - e) * ln(a / e); e, a: share of the training rows and of `scores` in the bin.

    Bins end at the training scores' deciles (equal deciles are one), closed above; an empty bin counts as 1e-4.
    `training_percentiles`: the 0th to 100th. Known since Siddiqi, Credit Risk Scorecards (2006), with the rule of thumb
    below 0.1 stable, above 0.25 changed. Of few rows it is noisy: without any change its mean is near
    (bins - 1) * (1/n_training + 1/n_scores).
    """
    percentiles = np.asarray(training_percentiles, dtype=np.float64)
    edges = np.unique(percentiles[10:100:10])
    # of equal percentiles the highest tells how much of the training lies at or below the edge
    expected = np.diff(np.concatenate([[0.0], (np.searchsorted(percentiles, edges, side="right") - 1) / 100, [1.0]]))
    below = np.searchsorted(np.sort(scores), edges, side="right") / len(scores)
    actual = np.diff(np.concatenate([[0.0], below, [1.0]]))
    expected, actual = np.maximum(expected, PSI_FLOOR), np.maximum(actual, PSI_FLOOR)
    return float(np.sum((actual - expected) * np.log(actual / expected)))
