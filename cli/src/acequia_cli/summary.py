"""What became of a run: one document for programs, and the same for people."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from acequia_cli.chain import Page, chain
from acequia_cli.connection import Connection
from acequia_cli.follow import Watched
from acequia_cli.lineage import print_lineage
from acequia_cli.progress import STYLES, count, seconds

ROWS = ("rows_in", "rows_raw", "rows_silver", "rows_duplicate", "rows_quarantined")
LAYERS = ("landing", "raw", "silver", "models", "eval", "quarantine")
LISTED_MOST = 5
"""URIs of a layer that people are shown."""

METRICS = {
    "roc_auc": "chance that an attack scores above a harmless event (1 is perfect, 0.5 is guessing)",
    "average_precision": "precision over all thresholds (1 is perfect, guessing gives the share of attacks)",
    "recall_at_1pct_fpr": "share of the attacks found when 1% of the harmless events raise a false alarm",
    "precision_at_positives": "share of attacks among as many top-scored events as there are attacks",
    "precision_at_100": "share of attacks among the 100 highest-scored events",
    "psi": "drift of the scores against training (below 0.1 stable, above 0.25 changed)",
    "alert_rate": "share of the events that score above the alert threshold",
    "score_median": "the middle anomaly score (higher is more anomalous)",
    "labelled_rows": "judged events that say whether they are an attack",
    "attacks": "attacks among them",
}
"""A line on each metric for someone who meets it for the first time, in the order of interest."""

ABOUT_LAYERS = {
    "rows_in": "events in the source",
    "rows_raw": "readable, in one common schema",
    "rows_silver": "valid, without duplicates, with features",
    "rows_duplicate": "equal to another row of the same object, left out",
    "rows_quarantined": "broke a rule, kept apart with the reason",
}


def summarise(one: Watched, connection: Connection, lineage: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The document. What is not known (yet) is null, or empty."""
    page = one.page
    metrics = dict(page.get("metrics") or {})
    promoted = metrics.pop("promoted", None)
    told = page.get("artifacts") or {}
    artifacts = {layer: list(told[layer]) for layer in sorted(told, key=_flow)}
    error = page.get("error")
    document: dict[str, Any] = {
        "run_id": one.run_id,
        "dataset": page.get("dataset"),
        "source": page.get("source") or one.label,
        "state": page.get("state", "accepted"),
        "finished": one.finished,
        "same_as": page.get("same_as"),
        "first_state": one.first.get("state") if one.first else None,
        **{name: page.get(name) for name in ROWS},
        "quarantined_by_rule": dict(page.get("quarantined_by_rule") or {}),
        "lines_skipped": lines_skipped(one.first or page),
        "artifacts": artifacts,
        "model": page.get("model"),
        "scope": _scope(page),
        "promoted": None if promoted is None else bool(promoted),
        "metrics": metrics,
        "seconds": round(one.seconds, 3) if one.seconds is not None else None,
        "stages": [
            {"name": s.name, "stage": s.stage, "status": str(s.progress), "rows": s.rows, "seconds": s.seconds}
            for s in (chain(page) if page else ())
        ],
        "read_as": read_as(page),
        "error": {key: error.get(key) for key in ("type", "rule", "message")} if error else None,
    }
    if connection.data is not None:
        document["paths"] = {
            uri: str(path.absolute())
            for uris in artifacts.values()
            for uri in uris
            if (path := connection.path(uri)) is not None
        }
    if lineage is not None:
        document["lineage"] = lineage
    return document


def _flow(layer: str) -> tuple[int, str]:
    return (LAYERS.index(layer) if layer in LAYERS else len(LAYERS)), layer


def _scope(page: Page) -> str | None:
    """`holdout` or `in_sample`: which rows the model was judged by."""
    evaluations = (page.get("stages") or {}).get("evaluator", ())
    said = [e["parameters"].get("scope") for e in evaluations if e["kind"] == "outcome"]
    return str(said[-1]) if said and said[-1] else None


def _ingested(page: Page) -> list[Mapping[str, Any]]:
    """What the ingestor's outcomes say, the first first."""
    return [e for e in (page.get("stages") or {}).get("ingestor", ()) if e["kind"] == "outcome"]


def lines_skipped(page: Page) -> dict[str, int]:
    """Lines of a file that are no rows, by reason."""
    said = [outcome.get("lines_skipped") or {} for outcome in _ingested(page)]
    return dict(said[-1]) if said else {}


def read_as(page: Page) -> dict[str, Any] | None:
    """How a file was read that could be read in several ways: `options`, who `told` each, columns `ignored`."""
    said = [outcome["parameters"] for outcome in _ingested(page) if "csv" in outcome.get("parameters", {})]
    if not said:
        return None
    last = said[-1]
    return {"options": last["csv"], "told_by": last["csv_told_by"], "ignored": list(last.get("columns_ignored", ()))}


def taken_for_granted(told: Mapping[str, Any] | None) -> list[str]:
    """What nothing in the file told, and nobody said: `dates=dmy`."""
    if told is None:
        return []
    return [
        f"{name}={told['options'][name]}" for name in ("dates", "decimal") if told["told_by"].get(name) == "default"
    ]


def headline(document: Mapping[str, Any]) -> Text:
    """In one sentence, how it ended."""
    state, source, took = document["state"], document["source"], seconds(document["seconds"])
    events = f"{count(document['rows_in'])} {'synthetic events' if source == 'synthetic' else f'events from {source}'}"
    if state == "done" and not document["model"]:
        rows = f"{count(document['rows_silver'])} of {count(document['rows_in'])} rows"
        return Text(f"Done: {rows} from {source} are in SILVER, after {took}.", "bold green")
    if state == "done":
        return Text(f"Done: {events} became an evaluated model in {took}.", "bold green")
    if state == "same_content":
        first = f"run {document['same_as']}"
        if document["first_state"] == "done":
            return Text(f"The same content as {first}: nothing new was made. Its numbers:", "bold green")
        return Text(f"The same content as {first}, which was {document['first_state']}.", "bold red")
    if state in ("rejected", "failed"):
        why = f": {document['error']['message']}" if document["error"] else ""
        return Text(f"{state.capitalize()}: {source}{why}", "bold red")
    return Text(f"Not finished yet: {source} is {state}.", "bold yellow")


def print_summary(console: Console, document: Mapping[str, Any], connection: Connection) -> None:
    """For people, and above all for one who sees it for the first time."""
    console.print()
    console.print(headline(document), soft_wrap=True)
    console.print(f"Run {document['run_id']}, dataset {document['dataset']}", style="dim", highlight=False)
    if document["read_as"]:
        _print_read_as(console, document["read_as"])
    if document["rows_in"] or document["lines_skipped"]:
        _print_rows(console, document)
    if document["model"]:
        _print_model(console, document)
    if document["artifacts"]:
        _print_artifacts(console, document, connection)
    if document.get("lineage"):
        console.print("\nLineage of the model", style="bold")
        print_lineage(console, document["lineage"], only_run=document["same_as"] or document["run_id"])


def _grid(*, number: bool = True) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right" if number else "left")
    table.add_column(style="dim")
    return table


def _print_read_as(console: Console, told: Mapping[str, Any]) -> None:
    lines = ["  ".join(f"{name} {value}" for name, value in told["options"].items())]
    if guessed := taken_for_granted(told):
        lines.append(f"nothing in the file tells that it is {', '.join(guessed)}: if it is not, say so with --csv")
    if told["ignored"]:
        lines.append(f"columns that the dataset does not have: {', '.join(told['ignored'])}")
    console.print("\nRead as", style="bold")
    for line in lines:
        console.print(f"  {line}", soft_wrap=True, markup=False, highlight=False)


def _print_rows(console: Console, document: Mapping[str, Any]) -> None:
    console.print("\nRows", style="bold")
    table = _grid()
    names = dict(zip(ROWS, ("source", "RAW", "SILVER", "duplicate", "quarantined"), strict=True))
    for name, label in names.items():
        table.add_row(f"  {label}", count(document[name]), ABOUT_LAYERS[name])
    for rule, rows in sorted(document["quarantined_by_rule"].items(), key=lambda item: (-item[1], item[0])):
        table.add_row(f"    {rule}", Text(count(rows), "red"), "rejected for this reason")
    if skipped := document["lines_skipped"]:
        table.add_row("  skipped", count(sum(skipped.values())), "lines of the file that are no rows, in no sum")
        for reason, lines in sorted(skipped.items(), key=lambda item: (-item[1], item[0])):
            table.add_row(f"    {reason}", count(lines), "")
    console.print(table)
    if document["rows_silver"] is not None and document["finished"]:
        parts = [document[name] or 0 for name in ("rows_silver", "rows_duplicate", "rows_quarantined")]
        sign = "=" if sum(parts) == document["rows_in"] else "is not"
        silver, duplicate, quarantined = map(count, parts)
        text = (
            f"  {count(document['rows_in'])} {sign} {silver} SILVER + {duplicate} duplicate + {quarantined} quarantined"
        )
        console.print(text, style="dim", highlight=False)


def _print_model(console: Console, document: Mapping[str, Any]) -> None:
    console.print("\nModel", style="bold")
    console.print(f"  {document['model']}", soft_wrap=True, highlight=False)
    judged = {
        "holdout": "Judged on the last part of the events by time, which it had not seen in training.",
        "in_sample": "scope: in_sample. Too few events to hold some out: judged on those it was trained on, "
        "so expect less on new data.",
    }
    if document["scope"] in judged:
        console.print(f"  {judged[document['scope']]}", soft_wrap=True, highlight=False)
    if document["promoted"] is not None:
        console.print(
            "  It passed the gate: it is, or has been, the champion."
            if document["promoted"]
            else "  It did not pass the gate: the champion, if there is one, stays. The report says why.",
            soft_wrap=True,
            highlight=False,
        )
    if document["metrics"]:
        console.print("\nMetrics", style="bold")
        table = _grid()
        order = {name: position for position, name in enumerate(METRICS)}
        for name, value in sorted(document["metrics"].items(), key=lambda item: (order.get(item[0], 99), item[0])):
            table.add_row(f"  {name}", _number(value), METRICS.get(name, ""))
        console.print(table)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) > 1 else f"{value:.4f}"


def _print_artifacts(console: Console, document: Mapping[str, Any], connection: Connection) -> None:
    console.print("\nArtifacts", style="bold")
    artifacts = document["artifacts"]
    for layer, uris in artifacts.items():
        for uri in uris[:LISTED_MOST]:
            console.print(f"  {layer:<11} {uri}", soft_wrap=True, markup=False, highlight=False)
            if (path := connection.path(uri)) is not None:
                console.print(f"  {'':<11} {path}", style="dim", soft_wrap=True, markup=False, highlight=False)
        if len(uris) > LISTED_MOST:
            console.print(f"  {'':<11} and {len(uris) - LISTED_MOST:,} more (--json lists all)", style="dim")


def print_many(console: Console, documents: list[dict[str, Any]]) -> None:
    """A line per run."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("source", overflow="fold")
    for name in ("state", "run"):
        table.add_column(name, no_wrap=True)
    for name in ("rows", "SILVER", "duplicate", "quarantined"):
        table.add_column(name, justify="right", no_wrap=True)
    for document in documents:
        table.add_row(
            document["source"],
            state_text(document["state"]),
            document["run_id"],
            *(count(document[name]) for name in ("rows_in", "rows_silver", "rows_duplicate", "rows_quarantined")),
        )
    console.print()
    console.print(table)
    for document in documents:
        if document["error"]:
            text = f"{document['source']}: {document['error']['message']}"
            console.print(text, style="red", soft_wrap=True, markup=False, highlight=False)
    for model in sorted({document["model"] for document in documents if document["model"]}):
        console.print(f"model {model}", soft_wrap=True, highlight=False)


def state_text(state: str) -> Text:
    styles = {str(progress).replace(" ", "_"): style for progress, style in STYLES.items()}
    return Text(state, styles.get(state, ""))
