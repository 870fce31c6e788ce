"""A model card in, its evaluation and the decision about it out."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from acequia.cards import ModelCard, parse_card
from acequia.datasets import Registry
from acequia.errors import RejectedInput
from acequia.layers import Layer, folder_key
from acequia.samples import count_rows, draw_rows
from acequia.work import Beside, Outcome, Pointer, Ref, Work
from acequia_evaluator.gate import champion_document, decide, parse_champion
from acequia_evaluator.loading import load_model
from acequia_evaluator.metrics import Labels, Scores, population_stability, rank_by_labels
from acequia_evaluator.report import Evaluated, render
from acequia_evaluator.settings import EvaluatorSettings

LABEL = "label"
BENIGN = frozenset({"benign", "normal"})
LEFT_OUT = frozenset({"", "-", "background", "unknown"})
"""Labels that say neither attack nor benign: such rows are scored, not judged."""
SCORE_ROWS = 50_000
"""Rows scored at a time."""
MOST_ATTACK_LABELS = 50


def champion_key(dataset: str) -> str:
    return f"{dataset}/champion.json"


def needs(work: Work, first: Path) -> Sequence[Ref]:
    """The model's file, the SILVER objects that hold what it is judged by, and the champion, if there is one."""
    card = _card(work, first)
    return (
        Ref(Layer.MODELS, card.artifact.key),
        *(Ref(Layer.SILVER, data.key, data.etag) for data in card.holdout.inputs),
        Ref(Layer.MODELS, champion_key(card.dataset), optional=True),
    )


def _card(work: Work, path: Path) -> ModelCard:
    """The card. RejectedInput (`malformed_card`) where it is none, or not the one of the folder it lies in."""
    card = parse_card(path.read_bytes())
    folder = work.inputs[0].key.rpartition("/")[0]
    if card.dataset != work.dataset or card.artifact.key.rpartition("/")[0] != folder:
        raise RejectedInput("malformed_card", f"the card in {folder} is about {card.artifact.key}")
    if not card.holdout.inputs:
        raise RejectedInput("malformed_card", "the card names no data to be judged by")
    return card


@dataclass(frozen=True, slots=True)
class _Scored:
    scores: Scores
    labels: pl.Series
    """As in SILVER, in lower case; null where a row has none."""
    rows: int
    """How many there were to draw from."""


def evaluate(
    work: Work, inputs: Sequence[Path], out: Path, *, registry: Registry, settings: EvaluatorSettings
) -> Outcome:
    """Score the hold-out (in sample: the rows of training), measure, decide.

    Raises RejectedInput: `malformed_card`, `hash_mismatch`, `untrusted_type`, `unreadable_model`,
    `unreadable_data` (an object of SILVER is not what the card says).
    """
    card = _card(work, inputs[0])
    model = load_model(inputs[1], card)
    champion_path, champion_input = inputs[-1], work.inputs[-1]
    scored = _score(card, model, inputs[2:-1], settings)
    metrics, labelled, notes, curve, by_label = _measure(card, scored, settings)

    there = champion_path.exists()
    champion = parse_champion(champion_path.read_bytes()) if there else None
    if there and champion is None:
        notes.append("champion.json could not be understood and counts as none")
    decision = decide(card, metrics, labelled=labelled, champion=champion, settings=settings)
    card_uri = work.inputs[0].uri
    pointer = None
    if decision.moves:
        document = champion_document(card, metrics, labelled=labelled, uri=card_uri, before=champion)
        pointer = Pointer(
            Layer.MODELS, champion_key(card.dataset), document, (champion_input.etag or None) if there else None
        )
    if champion and champion.model != card.model:
        notes.append(
            "Candidate and champion were judged on different hold-outs: comparing them is indicative, "
            "which is why the gate has a tolerance."
        )

    report_key = folder_key(work.stem, work.variant, "report.html")
    evaluation: dict[str, Any] = {
        "schema_version": 1,
        "model": card.model,
        "model_uri": card_uri,
        "model_sha256": card.artifact.sha256,
        "dataset": card.dataset,
        "run_id": str(card.run_id),
        "scope": card.holdout.scope,
        "labelled": labelled,
        "rows": scored.rows,
        "rows_scored": len(scored.scores),
        "threshold": card.threshold,
        "metrics": metrics,
        "recall_by_label": by_label,
        "score_quantiles": _percentiles(scored.scores),
        "promoted": decision.promoted,
        "reason": decision.reason,
        "gate": [asdict(check) for check in decision.checks],
        "champion_before": champion.model if champion else None,
        "notes": notes,
        "inputs": [data.model_dump(mode="json") for data in card.holdout.inputs],
        "report": report_key,
    }
    report = out / "report.html"
    report.write_text(
        render(Evaluated(card=card, document=evaluation, scores=scored.scores, attack=curve)), encoding="utf-8"
    )
    return Outcome(
        document=evaluation,
        beside=(Beside(Layer.EVAL, report_key, report, "text/html; charset=utf-8"),),
        pointer=pointer,
        parameters={**settings.model_dump(), "scope": card.holdout.scope},
        metrics={**metrics, "promoted": float(decision.promoted)},
    )


def _score(card: ModelCard, model: Any, paths: Sequence[Path], settings: EvaluatorSettings) -> _Scored:
    """The rows on the evaluation's side of the cut; of more than `max_rows`, a sample."""
    keep = pl.lit(True)
    try:
        if card.holdout.cut is not None:
            keep = pl.col(card.event_time) >= datetime.fromisoformat(card.holdout.cut)
        columns = pl.scan_parquet(paths[0]).collect_schema()
        wanted = [*card.features, *([LABEL] if LABEL in columns else [])]
        frame = draw_rows(paths, wanted, keep, at_most=settings.max_rows, seed=settings.seed)
        rows = sum(count_rows(paths, keep))
        matrix = frame.select(pl.col(card.features).cast(pl.Float64).fill_null(np.nan)).to_numpy()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError) as error:
        raise RejectedInput("unreadable_data", f"SILVER is not what the card says: {error}") from error
    if not len(matrix):
        raise RejectedInput("unreadable_data", "no row is left to judge the model by")
    try:
        scores = np.concatenate(
            [-model.score_samples(matrix[begin : begin + SCORE_ROWS]) for begin in range(0, len(matrix), SCORE_ROWS)]
        )
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise RejectedInput("unreadable_model", f"the model does not take these features: {error}") from error
    labels = (
        frame[LABEL].cast(pl.String).str.strip_chars().str.to_lowercase()
        if LABEL in frame.columns
        else pl.Series(LABEL, [None] * frame.height, dtype=pl.String)
    )
    return _Scored(scores, labels, rows)


Curve = tuple[Scores, Labels]
"""Scores and labels of the rows that say what they are."""


def _measure(
    card: ModelCard, scored: _Scored, settings: EvaluatorSettings
) -> tuple[dict[str, float], bool, list[str], Curve | None, dict[str, dict[str, float]]]:
    """Metrics; whether labels decide; what a reader has to know; judged rows, if any; recall per attack label."""
    notes: list[str] = []
    metrics = {
        "psi": population_stability(card.score_quantiles, scored.scores),
        "alert_rate": float(np.mean(scored.scores > card.threshold)),
        "score_median": float(np.median(scored.scores)),
    }
    if len(scored.scores) < scored.rows:
        notes.append(f"{len(scored.scores):,} of {scored.rows:,} rows were drawn and scored.")
    if card.holdout.scope == "in_sample":
        notes.append("scope: in_sample. The model is judged by the rows it was trained on: expect less on new data.")

    known = (scored.labels.is_not_null() & ~scored.labels.is_in(LEFT_OUT)).to_numpy()
    attack = (~scored.labels.is_in(BENIGN)).fill_null(False).to_numpy()[known]
    judged = scored.scores[known]
    positives, negatives = int(attack.sum()), int(len(attack) - attack.sum())
    if not len(attack):
        notes.append("No row is labelled: judged by the scores' distribution alone.")
        return metrics, False, notes, None, {}
    metrics |= {"labelled_rows": float(len(attack)), "attacks": float(positives)}
    by_label = _recall_by_label(scored.labels.filter(pl.Series(known)), judged, attack, card.threshold)
    if len(attack) < len(scored.scores):
        notes.append(f"{len(attack):,} of {len(scored.scores):,} scored rows are labelled; label metrics are theirs.")
    if not positives or not negatives:
        notes.append(
            f"All labelled rows are {'attacks' if positives else 'benign'}: label metrics need both, so there are none."
        )
        return metrics, False, notes, None, by_label
    metrics |= asdict(rank_by_labels(judged, attack))
    if positives > negatives:
        notes.append(
            f"{positives / len(attack):.0%} of the labelled rows are attacks. The model looks for what is unusual: "
            "where the training data was such a mixture too, benign rows can look odder, and ROC-AUC fall below 0.5."
        )
    enough = min(positives, negatives) >= settings.min_positives
    if not enough:
        notes.append(
            f"{positives} attacks and {negatives} benign rows are too few to decide by (at least "
            f"{settings.min_positives} of each): label metrics are shown, the gate goes by the scores."
        )
    return metrics, enough, notes, (judged, attack), by_label


def _recall_by_label(
    labels: pl.Series, scores: Scores, attack: Labels, threshold: float
) -> dict[str, dict[str, float]]:
    """Per attack label: its rows, and the share of them that scores above the threshold. The most frequent labels."""
    table = (
        pl.DataFrame({LABEL: labels, "alert": scores > threshold})
        .filter(pl.Series(attack))
        .group_by(LABEL)
        .agg(pl.len().alias("rows"), pl.col("alert").mean().alias("recall"))
        .sort(["rows", LABEL], descending=[True, False])
        .head(MOST_ATTACK_LABELS)
    )
    return {str(label): {"rows": rows, "recall": recall} for label, rows, recall in table.iter_rows()}


def _percentiles(scores: Scores) -> list[float]:
    return [float(q) for q in np.quantile(scores, np.linspace(0, 1, 101))]
