"""Whether a candidate becomes champion: each check with its value, its limit and whether it passed."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from acequia.cards import ModelCard
from acequia_evaluator.settings import EvaluatorSettings

HISTORY = 1_000
"""Earlier champions that are remembered."""


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    value: float | str
    limit: str
    passed: bool


@dataclass(frozen=True, slots=True)
class Decision:
    promoted: bool
    reason: str
    checks: tuple[Check, ...]
    moves: bool
    """Whether `champion.json` has to be moved for it."""


@dataclass(frozen=True, slots=True)
class Champion:
    """`champion.json` as it was read."""

    model: str
    metrics: Mapping[str, float]
    labelled: bool
    history: tuple[str, ...]


def parse_champion(text: bytes) -> Champion | None:
    """None where the document makes no sense: the next champion then takes its place."""
    try:
        document = json.loads(text)
        return Champion(
            model=str(document["model"]),
            metrics={str(k): float(v) for k, v in document["metrics"].items()},
            labelled=bool(document["labelled"]),
            history=tuple(str(model) for model in document["history"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def decide(
    card: ModelCard,
    metrics: Mapping[str, float],
    *,
    labelled: bool,
    champion: Champion | None,
    settings: EvaluatorSettings,
) -> Decision:
    """The decision. What is or was champion passes again: an earlier delivery moved the pointer and then stopped."""
    checks = tuple(_checks(card, metrics, labelled=labelled, champion=champion, settings=settings))
    if card.holdout.scope == "in_sample":
        return Decision(
            False, "evaluated in sample: there was too little to hold out, so nothing is proven", checks, False
        )
    if champion and card.model == champion.model:
        return Decision(True, "is the champion already", checks, False)
    if champion and card.model in champion.history:
        return Decision(True, "was promoted before, and another has followed since", checks, False)
    failed = [check for check in checks if not check.passed]
    if failed:
        return Decision(False, "; ".join(f"{c.name} is {_say(c.value)}, not {c.limit}" for c in failed), checks, False)
    return Decision(True, f"passed {len(checks)} of {len(checks)} checks", checks, True)


def _checks(
    card: ModelCard,
    metrics: Mapping[str, float],
    *,
    labelled: bool,
    champion: Champion | None,
    settings: EvaluatorSettings,
) -> Sequence[Check]:
    checks = [Check("scope", card.holdout.scope, "holdout", card.holdout.scope == "holdout")]
    if not labelled:
        psi, alerts = metrics["psi"], metrics["alert_rate"]
        checks.append(Check("psi", psi, f"at most {settings.max_psi:g}", psi <= settings.max_psi))
        most = settings.max_alert_rate
        checks.append(Check("alert_rate", alerts, f"at most {most:g}", alerts <= most))
        return checks
    auc = metrics["roc_auc"]
    checks.append(Check("roc_auc", auc, f"at least {settings.min_roc_auc:g}", auc >= settings.min_roc_auc))
    before = champion.metrics.get("roc_auc", math.nan) if champion and champion.labelled else math.nan
    if math.isfinite(before):
        least = before - settings.champion_tolerance
        limit = f"at least {least:.4f} (the champion's {before:.4f} less {settings.champion_tolerance:g})"
        checks.append(Check("roc_auc_against_champion", auc, limit, auc >= least))
    return checks


def _say(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4f}"


def champion_document(
    card: ModelCard, metrics: Mapping[str, float], *, labelled: bool, uri: str, before: Champion | None
) -> dict[str, Any]:
    """What `champion.json` says after the promotion. No clock: the same decision gives the same bytes."""
    history = (before.model, *before.history)[:HISTORY] if before else ()
    return {
        "schema_version": 1,
        "dataset": card.dataset,
        "model": card.model,
        "uri": uri,
        "run_id": str(card.run_id),
        "planned_at": card.plan.created_at,
        "labelled": labelled,
        "metrics": dict(metrics),
        "history": list(history),
    }
