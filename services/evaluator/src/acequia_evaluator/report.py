"""`report.html`: one file that says how good a model is and where it comes from; on screen and on paper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import precision_recall_curve, roc_curve

from acequia.cards import DataRef, ModelCard
from acequia_evaluator.plots import Series, chart

BINS = 40
MOST_OBJECTS = 100

EXPLAINED: Mapping[str, str] = {
    "roc_auc": "ROC-AUC: chance that an attack scores above a benign row (0.5 is guessing)",
    "average_precision": "Average precision: area under the precision-recall curve",
    "recall_at_1pct_fpr": "Recall at 1% FPR: share of attacks found while at most 1% of benign rows raise an alarm",
    "precision_at_positives": "Precision at k = number of attacks",
    "precision_at_100": "Precision among the 100 highest scores",
    "psi": "PSI: drift of the scores against training (below 0.1 stable, above 0.25 changed; noisy for few rows)",
    "alert_rate": "Alert rate: share of rows above the threshold",
    "score_median": "Median score",
    "labelled_rows": "Rows with a label that says attack or benign",
    "attacks": "Attacks among them",
}
COUNTS = frozenset({"labelled_rows", "attacks"})

STYLE = """
:root{color-scheme:light}
body{font:15px/1.45 system-ui,sans-serif;color:#1c2530;background:#fff;max-width:960px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1.1rem;margin:1.8rem 0 .5rem;border-bottom:1px solid #ccd3da}
.sub{color:#56616d;margin:0 0 1rem;overflow-wrap:anywhere}
.decision{border:2px solid #56616d;border-left-width:10px;padding:.6rem 1rem;margin:1rem 0}
.decision.yes{border-color:#1b7a4b}.decision.no{border-color:#b25a00}
.decision b{font-size:1.15rem}
table{border-collapse:collapse;width:100%;font-size:.92rem}td,th{text-align:left;vertical-align:top;
padding:.25rem .6rem .25rem 0;
border-bottom:1px solid #e3e7eb;overflow-wrap:anywhere}
.facts td:first-child{width:9em;overflow-wrap:normal}
.plots{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0;width:430px;max-width:100%}figcaption{font-weight:600}
svg{width:100%;height:auto}.grid{stroke:#e3e7eb}.tick{font-size:10px;fill:#56616d}.axis{font-size:11px;fill:#1c2530}
.line{fill:none;stroke-width:2}.line.a{stroke:#1f5fa8}.line.b{stroke:#c2410c;stroke-dasharray:6 3}
.line.rule{stroke:#8a949e;stroke-width:1;stroke-dasharray:3 3}.mark{stroke:#1c2530;stroke-dasharray:2 2}
.bar.a{fill:#1f5fa8;fill-opacity:.55}.bar.b{fill:#c2410c;fill-opacity:.6}
.keys{font-size:.82rem}.key{margin-right:1rem}.key::before{content:"";display:inline-block;width:.8em;height:.8em;
margin-right:.35em;vertical-align:-.05em}.key.a::before{background:#1f5fa8}.key.b::before{background:#c2410c}
.key.rule::before{background:#8a949e}.notes{padding-left:1.2rem}
@media print{body{margin:0;max-width:none;font-size:11px}figure{width:48%;break-inside:avoid}
.decision,tr{break-inside:avoid}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What the report shows. `attack`: scores and labels of the judged rows, None where there are not both classes."""

    card: ModelCard
    document: Mapping[str, Any]
    """`evaluation.json`."""
    scores: npt.NDArray[np.float64]
    attack: tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]] | None


def render(evaluated: Evaluated) -> str:
    """The page. No resource from elsewhere; everything that comes from data is escaped."""
    card, document = evaluated.card, evaluated.document
    scope = card.holdout.scope
    told = (
        f"hold-out: the {document['rows']:,} rows from {card.holdout.cut} on, which training never saw"
        if scope == "holdout"
        else f"scope: in_sample. Judged by the {document['rows']:,} rows it was trained on, so nothing is proven"
    )
    promoted = bool(document["promoted"])
    verdict = "Champion" if promoted else "Not promoted"
    sections = [
        f"<h1>Evaluation of {escape(card.model)}</h1>",
        f'<p class="sub">Dataset {escape(card.dataset)} · {escape(card.algorithm)} · {escape(told)}</p>',
        f'<div class="decision {"yes" if promoted else "no"}"><b>{verdict}</b><br>{escape(str(document["reason"]))}'
        f"<br>Champion before: {escape(str(document['champion_before'] or 'none'))}</div>",
        _notes(document["notes"]),
        "<h2>Gate</h2>",
        _table(
            ("Check", "Value", "Limit", "Passed"),
            [(c["name"], _number(c["value"]), c["limit"], "yes" if c["passed"] else "no") for c in document["gate"]],
        ),
        f"<h2>Metrics (scope: {escape(scope)})</h2>",
        _table(
            ("Metric", "Value"),
            [
                (EXPLAINED.get(name, name), f"{value:,.0f}" if name in COUNTS else _number(value))
                for name, value in document["metrics"].items()
            ],
        ),
        "<h2>Scores</h2>",
        f'<div class="plots">{"".join(_plots(evaluated))}</div>',
    ]
    if document["recall_by_label"]:
        sections += [
            "<h2>Attacks by label</h2>",
            _table(
                ("Label", "Rows", "Share above the threshold"),
                [(k, f"{v['rows']:,}", _number(v["recall"])) for k, v in document["recall_by_label"].items()],
            ),
        ]
    sections += [
        "<h2>Where the model comes from</h2>",
        _table((), _origin(card), kind="facts"),
        "<h2>Training data</h2>",
        _objects([*card.inputs, *card.window], len(card.inputs)),
        "<h2>Features</h2>",
        f"<p>{escape(', '.join(card.features))}</p>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Evaluation of {escape(card.model)}</title><style>{STYLE}</style></head><body>"
        + "\n".join(sections)
        + "</body></html>\n"
    )


def _plots(evaluated: Evaluated) -> list[str]:
    card, scores = evaluated.card, evaluated.scores
    low, high = float(scores.min()), float(scores.max())
    width = (high - low or 1.0) / BINS
    edges = np.linspace(low, low + width * BINS, BINS + 1)
    shown = (
        [("scores", "a", scores)]
        if evaluated.attack is None
        else [
            ("benign", "a", evaluated.attack[0][~evaluated.attack[1]]),
            ("attack", "b", evaluated.attack[0][evaluated.attack[1]]),
        ]
    )
    bars = []
    for name, style, values in shown:
        counts, _ = np.histogram(values, bins=edges)
        # each class as shares of itself: attacks are few, and would not be seen beside the benign rows
        points = [(float(e), float(c) / max(len(values), 1)) for e, c in zip(edges[:-1], counts, strict=True)]
        bars.append(Series(f"{name} ({len(values):,})", points, style, bars=True))
    tallest = max(height for s in bars for _, height in s.points)
    trained, now = card.score_quantiles, evaluated.document["score_quantiles"]
    plots = [
        chart(
            "Scores" if evaluated.attack is None else "Scores by class",
            bars,
            x="anomaly score",
            y="share of the rows",
            x_range=(low, low + width * BINS),
            y_range=(0, tallest),
            mark=(card.threshold, "threshold"),
            bin_width=width,
        ),
        chart(
            "Score percentiles, training and evaluated",
            [
                Series("training", [(float(i), q) for i, q in enumerate(trained)], "a"),
                Series("evaluated", [(float(i), q) for i, q in enumerate(now)], "b"),
            ],
            x="percentile",
            y="anomaly score",
            x_range=(0, 100),
            y_range=(min(trained[0], now[0]), max(trained[-1], now[-1])),
        ),
    ]
    if evaluated.attack is not None:
        judged, attack = evaluated.attack
        false_positive, true_positive, _ = roc_curve(attack, judged)
        precision, recall, _ = precision_recall_curve(attack, judged)
        share = float(attack.mean())
        plots += [
            chart(
                "ROC curve",
                [
                    Series("model", _points(false_positive, true_positive), "a"),
                    Series("guessing", [(0, 0), (1, 1)], "rule"),
                ],
                x="false positive rate",
                y="recall",
                x_range=(0, 1),
                y_range=(0, 1),
            ),
            chart(
                "Precision and recall",
                [
                    Series("model", _points(recall, precision), "a"),
                    Series("guessing", [(0, share), (1, share)], "rule"),
                ],
                x="recall",
                y="precision",
                x_range=(0, 1),
                y_range=(0, 1),
            ),
        ]
    return plots


def _points(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> list[tuple[float, float]]:
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _origin(card: ModelCard) -> list[tuple[str, str]]:
    cut = f", cut at {card.holdout.cut}" if card.holdout.cut else ""
    rows = [
        ("Model", f"{card.artifact.key} (sha256 {card.artifact.sha256}, {card.artifact.bytes:,} bytes)"),
        ("Run", str(card.run_id)),
        ("Runs of its data", ", ".join(map(str, card.parents)) or "not told"),
        ("Plan", f"{card.plan.number}, made {card.plan.created_at} ({card.plan.key})"),
        ("Rows", f"{card.rows_available:,} available, {card.rows_trained:,} trained on"),
        ("Judged by", f"scope: {card.holdout.scope}, {card.holdout.rows:,} rows{cut}"),
        ("Threshold", _number(card.threshold)),
        ("Parameters", ", ".join(f"{k}={v}" for k, v in card.parameters.items())),
        ("Libraries", ", ".join(f"{k} {v}" for k, v in card.libraries.items())),
    ]
    rows += [("Not trained on", f"{s.uri}: {s.reason}") for s in card.skipped]
    return rows


def _objects(objects: Sequence[DataRef], new: int) -> str:
    rows = [
        (o.uri, o.etag, f"{o.rows:,}", "new" if i < new else "window") for i, o in enumerate(objects[:MOST_OBJECTS])
    ]
    more = f"<p>and {len(objects) - MOST_OBJECTS:,} more: see the card</p>" if len(objects) > MOST_OBJECTS else ""
    return _table(("Object", "etag", "Rows", "Part"), rows) + more


def _notes(notes: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes">{items}</ul>' if items else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, kind: str = "plain") -> str:
    titles = f"<tr>{''.join(f'<th>{escape(h)}</th>' for h in head)}</tr>" if head else ""
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="{kind}">{titles}{body}</table>'


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4f}"
