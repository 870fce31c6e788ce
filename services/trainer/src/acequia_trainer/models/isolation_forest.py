"""Isolation forest (Liu, Ting, Zhou 2008): rows that random splits set apart quickly are unusual."""

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import IsolationForest
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline

ALGORITHM = "isolation_forest"

Matrix = npt.NDArray[np.float64]
Vector = npt.NDArray[np.float64]


def fit(rows: Matrix, *, n_estimators: int, max_samples: int, max_features: float, seed: int, n_jobs: int) -> Pipeline:
    """A fitted pipeline. `rows`: one row per event, one column per feature; NaN = not measured; at least one row.

    What was not measured becomes the column's median, and a column that says so is added: trees then see both. No
    scaling: a split compares one feature with itself.
    """
    pipeline = Pipeline(
        [
            ("impute", SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)),
            (
                "forest",
                IsolationForest(
                    n_estimators=n_estimators,
                    max_samples=min(max_samples, len(rows)),
                    max_features=max_features,
                    # our own threshold is a quantile of the scores: "auto" saves scoring the rows a second time
                    contamination="auto",
                    random_state=seed,
                    n_jobs=n_jobs,
                ),
            ),
        ]
    )
    return pipeline.fit(rows)


def anomaly_scores(pipeline: Pipeline, rows: Matrix) -> Vector:
    """One score per row, in (0, 1]; higher is more anomalous. That is the paper's score, 2 ** (-depth / expected)."""
    scores: Vector = -pipeline.score_samples(rows)
    return scores
