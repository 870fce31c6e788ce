"""SILVER features in, an anomaly detector and its card out. Labels are never read here."""

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import polars as pl
import skops.io

from acequia.cards import Artifact, DataRef, HoldOut, ModelCard, PlanRef, Skipped
from acequia.datasets import Dataset, Registry
from acequia.errors import RejectedInput, of_this_machine
from acequia.layers import Layer, folder_key, plan_key
from acequia.samples import count_rows, draw_rows, rows_of, time_of_rank
from acequia.stage import Candidate
from acequia.work import Beside, Input, Outcome, Work
from acequia_trainer.models import isolation_forest
from acequia_trainer.settings import TrainerSettings

LIBRARIES = ("polars", "scikit-learn", "skops", "numpy")
PERCENTILES = 101
MOST_ROWS_OF_AN_OBJECT = 1_000_000
"""Assumed of an object that does not say how many rows it has."""
MOST = float(np.finfo(np.float32).max)
"""Trees hold features as 32-bit floats."""


def compose(
    inputs: Sequence[Candidate], window: Sequence[Candidate], *, settings: TrainerSettings
) -> Mapping[str, Any]:
    """The newest earlier objects, as long as they and the new ones stay within the settings' rows; and the hold-out."""
    rows = sum(_rows(c) for c in inputs)
    chosen: list[Candidate] = []
    for candidate in window[: settings.window_objects]:
        rows += _rows(candidate)
        if rows > settings.window_rows:
            break
        chosen.append(candidate)
    return {
        "window": [asdict(c) for c in chosen],
        "holdout": {"fraction": settings.holdout_fraction, "by": "event_time"},
    }


def _rows(candidate: Candidate) -> int:
    return MOST_ROWS_OF_AN_OBJECT if candidate.rows is None else candidate.rows


@dataclass(frozen=True, slots=True)
class _Source:
    """An object that can be trained on. `new`: the plan covers it; else it lies in the window."""

    input: Input
    path: Path
    rows: int
    new: bool

    def ref(self, rows: int) -> DataRef:
        return DataRef(uri=self.input.uri, key=self.input.key, etag=self.input.etag, rows=rows)


def train(work: Work, inputs: Sequence[Path], out: Path, *, registry: Registry, settings: TrainerSettings) -> Outcome:
    """Fit on all rows before the hold-out's cut (of more than `max_rows`, a sample) and write model and card.

    Bounded memory: one object, and the sample. Works from one row on: with too little to hold out, in sample.
    Raises RejectedInput (`nothing_to_train_on`) where no object of the plan has the dataset's features.
    """
    dataset = registry[work.dataset]
    sources, skipped = _sources(work, inputs, dataset)
    paths = [s.path for s in sources]
    holdout = _hold_out(sources, dataset.time_column, _fraction(work, settings), settings.min_holdout)
    event_time = pl.col(dataset.time_column)
    before = pl.lit(True) if holdout.cut is None else event_time < datetime.fromisoformat(holdout.cut)
    frame = draw_rows(paths, dataset.features, before, at_most=settings.max_rows, seed=settings.seed)
    rows = frame.select(pl.all().cast(pl.Float64).fill_null(np.nan)).to_numpy()
    model = isolation_forest.fit(
        rows,
        n_estimators=settings.n_estimators,
        max_samples=settings.max_samples,
        max_features=settings.max_features,
        seed=settings.seed,
        n_jobs=settings.n_jobs,
    )
    scores = isolation_forest.anomaly_scores(model, rows)

    file = out / "model.skops"
    skops.io.dump(model, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    key = folder_key(work.stem, work.variant, f"model-{digest[:16]}.skops")
    number = int(work.plan.get("number", work.stem.plan or 0))
    available = sum(s.rows for s in sources)
    parameters = settings.model_dump(exclude={"gather_quiet", "gather_most", "n_jobs"})
    card = ModelCard(
        model=f"{work.stem}.{work.variant}",
        dataset=dataset.name,
        run_id=work.run_id,
        parents=_parents(work),
        plan=PlanRef(
            number=number,
            key=plan_key(work.stage, work.dataset, number),
            created_at=str(work.plan.get("created_at", work.stem.at.isoformat())),
        ),
        inputs=tuple(s.ref(s.rows) for s in sources if s.new),
        window=tuple(s.ref(s.rows) for s in sources if not s.new),
        skipped=tuple(skipped),
        holdout=holdout,
        event_time=dataset.time_column,
        features=dataset.features,
        algorithm=isolation_forest.ALGORITHM,
        parameters=parameters,
        rows_available=available,
        rows_trained=len(rows),
        score_quantiles=tuple(float(q) for q in np.quantile(scores, np.linspace(0, 1, PERCENTILES))),
        threshold=float(np.quantile(scores, 1 - settings.contamination)),
        libraries={"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        artifact=Artifact(key=key, sha256=digest, bytes=file.stat().st_size),
    )
    return Outcome(
        document=card.model_dump(mode="json"),
        beside=(Beside(Layer.MODELS, key, file),),
        parameters={**parameters, "scope": holdout.scope},
        metrics={
            "rows_available": available,
            "rows_trained": len(rows),
            "rows_held_out": holdout.rows if holdout.scope == "holdout" else 0,
            "threshold": card.threshold,
        },
    )


def _sources(work: Work, inputs: Sequence[Path], dataset: Dataset) -> tuple[list[_Source], list[Skipped]]:
    """What can be trained on; an object of another version of the features cannot, and is named with the reason."""
    new = len(work.plan.get("inputs", work.inputs))
    sources: list[_Source] = []
    skipped: list[Skipped] = []
    for position, (given, path) in enumerate(zip(work.inputs, inputs, strict=True)):
        try:
            rows, wrong = rows_of(path), _what_is_wrong(path, dataset)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            if of_this_machine(error) or not path.exists():
                raise
            skipped.append(Skipped(uri=given.uri, reason=f"not a Parquet file that can be read: {error}"))
            continue
        if wrong:
            skipped.append(Skipped(uri=given.uri, reason=wrong))
        elif rows:
            sources.append(_Source(given, path, rows, new=position < new))
        else:
            skipped.append(Skipped(uri=given.uri, reason="has no row"))
    if not sources or not dataset.features:
        reasons = "; ".join(f"{s.uri} {s.reason}" for s in skipped[:3]) or f"{dataset.name} has no features"
        raise RejectedInput("nothing_to_train_on", reasons)
    return sources, skipped


def _what_is_wrong(path: Path, dataset: Dataset) -> str:
    """Why a Parquet file can't be trained on, in words; empty where it can. Reads all that training would read."""
    scan = pl.scan_parquet(path)
    columns = scan.collect_schema()
    if missing := [name for name in (dataset.time_column, *dataset.features) if name not in columns]:
        return f"has no {', '.join(missing)}"
    if columns[dataset.time_column] != dataset.schema[dataset.time_column]:
        return f"{dataset.time_column} is {str(columns[dataset.time_column])[:100]}"
    if other := [
        f"{name} is {str(columns[name])[:100]}" for name in dataset.features if not columns[name].is_numeric()
    ]:
        return f"{', '.join(other)}: a feature is a number"
    beyond = (pl.col(name).cast(pl.Float64).abs() > MOST for name in dataset.features)
    found = scan.select(pl.col(dataset.time_column).is_null().any(), *(wrong.any() for wrong in beyond))
    bad = [name for name, any_ in found.collect(engine="streaming").row(0, named=True).items() if any_]
    return f"{', '.join(bad)}: not every value can be trained on" if bad else ""


def _hold_out(sources: Sequence[_Source], event_time: str, fraction: float, at_least: int) -> HoldOut:
    """The last `fraction` of all rows by event time: those from the time at rank floor(n * (1 - fraction)) on.

    Rows of one time stay together, so that it can be more; where it would be more than what is left to train on, or
    fewer rows than `at_least`, nothing is held out.
    """
    paths = [s.path for s in sources]
    total = sum(s.rows for s in sources)
    cut = time_of_rank(paths, event_time, int(total * (1 - fraction)))
    held = count_rows(paths, pl.col(event_time) >= cut)
    rows = sum(held)
    if rows < at_least or rows > total - rows:
        return HoldOut(
            scope="in_sample", fraction=fraction, cut=None, rows=total, inputs=tuple(s.ref(s.rows) for s in sources)
        )
    return HoldOut(
        scope="holdout",
        fraction=fraction,
        cut=cut.astimezone(UTC).isoformat(timespec="microseconds"),
        rows=rows,
        inputs=tuple(s.ref(count) for s, count in zip(sources, held, strict=True) if count),
    )


def _fraction(work: Work, settings: TrainerSettings) -> float:
    """As the plan pinned it."""
    return float(work.plan.get("holdout", {}).get("fraction", settings.holdout_fraction))


def _parents(work: Work) -> tuple[UUID, ...]:
    """The runs of all that is read, of the window too."""
    candidates = [*work.plan.get("inputs", ()), *work.plan.get("window", ())]
    return tuple(sorted({UUID(c["run_id"]) for c in candidates if c.get("run_id")}))
