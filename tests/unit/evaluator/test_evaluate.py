import hashlib
import json
import pickle
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import skops.io
from sklearn.dummy import DummyClassifier

from acequia.errors import RejectedInput
from acequia.layers import Layer

from .conftest import MODEL_ID, Case, silver_rows

MakeCase = Callable[..., Case]


def champion(model: str = "other", auc: float = 0.9, history: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "model": model,
        "labelled": True,
        "metrics": {"roc_auc": auc},
        "history": list(history),
    }


@pytest.fixture
def good(case: MakeCase) -> Case:
    return case(silver_rows(1000, attack_every=20))


def replace_model(case: Case, write: Callable[[Path], object]) -> None:
    """Another file in the model's place, with the hash the card wants: only the types can tell."""
    write(case.model)
    case.card["artifact"]["sha256"] = hashlib.sha256(case.model.read_bytes()).hexdigest()


def test_a_good_model_becomes_champion_with_each_number_told(good: Case) -> None:
    outcome = good.evaluate()
    document = outcome.document
    assert document is not None
    assert document["promoted"] is True
    assert document["scope"] == "holdout"
    assert document["labelled"] is True
    assert document["rows"] == 200
    assert document["metrics"]["attacks"] == 10
    assert document["metrics"]["roc_auc"] > 0.95
    assert document["recall_by_label"]["port_scan"]["rows"] == 10
    assert {c["name"]: c["passed"] for c in document["gate"]} == {"scope": True, "roc_auc": True}
    pointer = outcome.pointer
    assert pointer is not None
    assert (pointer.layer, pointer.key, pointer.etag) == (Layer.MODELS, "network_events/champion.json", None)
    assert pointer.document["model"] == MODEL_ID
    assert pointer.document["history"] == []
    assert json.loads(json.dumps(document)) == document


def test_evaluating_twice_gives_the_same_document_report_and_pointer(good: Case) -> None:
    one, two = good.evaluate(), good.evaluate()
    assert one.document == two.document
    assert one.pointer == two.pointer
    assert one.beside[0].path.read_bytes() == two.beside[0].path.read_bytes()


def test_a_weak_model_is_not_promoted_and_the_reason_has_the_numbers(case: MakeCase) -> None:
    outcome = case(silver_rows(1000, attack_every=20, shift=0.0)).evaluate()
    assert outcome.document is not None
    assert outcome.document["promoted"] is False
    assert outcome.pointer is None
    assert "roc_auc" in outcome.document["reason"]
    assert "at least 0.7" in outcome.document["reason"]


def test_in_sample_never_promotes_however_good(case: MakeCase) -> None:
    outcome = case(silver_rows(40, attack_every=5, shift=9.0)).evaluate()
    document = outcome.document
    assert document is not None
    assert document["metrics"]["roc_auc"] > 0.9
    assert document["scope"] == "in_sample"
    assert document["promoted"] is False
    assert outcome.pointer is None
    assert outcome.parameters["scope"] == "in_sample"
    assert "in_sample" in outcome.beside[0].path.read_text()


@pytest.mark.parametrize("rows", [1, 10])
def test_a_tiny_run_is_evaluated_in_sample(case: MakeCase, rows: int) -> None:
    document = case(silver_rows(rows)).evaluate().document
    assert document is not None
    assert (document["scope"], document["rows"], document["promoted"]) == ("in_sample", rows, False)


def test_a_champion_that_is_clearly_better_stays(good: Case) -> None:
    good.settings = {"champion_tolerance": 0.0}
    good.champion = champion(auc=1.01)
    outcome = good.evaluate()
    assert outcome.document is not None
    assert outcome.document["promoted"] is False
    assert outcome.pointer is None
    assert "champion" in outcome.document["reason"]


def test_a_champion_within_the_tolerance_is_replaced_and_remembered(good: Case) -> None:
    good.champion = champion(auc=0.9, history=("first",))
    outcome = good.evaluate()
    assert outcome.pointer is not None
    assert outcome.pointer.etag == "champion-etag"
    assert outcome.pointer.document["history"] == ["other", "first"]
    assert outcome.document is not None
    assert outcome.document["champion_before"] == "other"


@pytest.mark.parametrize("before", [champion(MODEL_ID, 2.0), champion("later", 2.0, (MODEL_ID,))])
def test_who_is_or_was_champion_passes_again_and_moves_nothing(good: Case, before: dict[str, Any]) -> None:
    good.champion = before
    outcome = good.evaluate()
    assert outcome.document is not None
    assert outcome.document["promoted"] is True
    assert outcome.pointer is None


def test_a_champion_that_makes_no_sense_is_replaced(good: Case) -> None:
    good.champion = {"model": 3}
    outcome = good.evaluate()
    assert outcome.pointer is not None
    assert outcome.pointer.etag == "champion-etag"
    assert outcome.document is not None
    assert any("champion.json" in note for note in outcome.document["notes"])


def test_without_labels_the_gate_goes_by_drift_and_alerts(case: MakeCase) -> None:
    unlabelled = case(silver_rows(2000, label=None))
    document = unlabelled.evaluate().document
    assert document is not None
    assert document["labelled"] is False
    assert "roc_auc" not in document["metrics"]
    assert [c["name"] for c in document["gate"]] == ["scope", "psi", "alert_rate"]
    assert document["promoted"] is True
    drifted = silver_rows(2000, label=None)
    late = pl.int_range(pl.len()) >= 1600
    names = [name for name in drifted.columns if name not in ("timestamp", "label")]
    moved = drifted.with_columns(pl.when(late).then(pl.col(n) + 4).otherwise(pl.col(n)).alias(n) for n in names)
    document = case(drifted, changed=moved).evaluate().document
    assert document is not None
    assert document["metrics"]["psi"] > 1
    assert document["metrics"]["alert_rate"] > 0.9
    assert document["promoted"] is False


def test_without_one_attack_label_metrics_are_absent_and_the_reason_is_said(case: MakeCase) -> None:
    document = case(silver_rows(1000)).evaluate().document
    assert document is not None
    assert "roc_auc" not in document["metrics"]
    assert document["metrics"]["attacks"] == 0
    assert any("benign" in note for note in document["notes"])


def test_background_is_scored_but_not_judged(case: MakeCase) -> None:
    frame = silver_rows(1000, attack_every=20).with_columns(
        pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.lit("Background")).otherwise("label").alias("label")
    )
    document = case(frame).evaluate().document
    assert document is not None
    assert document["rows_scored"] == 200
    assert document["metrics"]["labelled_rows"] == 100


def test_of_more_rows_than_the_setting_a_sample_is_scored_and_it_says_so(good: Case) -> None:
    good.settings = {"max_rows": 50}
    document = good.evaluate().document
    assert document is not None
    assert (document["rows"], document["rows_scored"]) == (200, 50)
    assert any("50 of 200" in note for note in document["notes"])


def test_a_model_file_that_changed_is_refused_before_it_is_opened(good: Case) -> None:
    good.model.write_bytes(good.model.read_bytes() + b"x")
    with pytest.raises(RejectedInput) as caught:
        good.evaluate()
    assert caught.value.rule == "hash_mismatch"


class Exploit:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.path),)


def test_a_pickle_in_the_model_s_place_is_refused_and_never_run(good: Case, tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    replace_model(good, lambda path: path.write_bytes(pickle.dumps(Exploit(str(trap)))))
    with pytest.raises(RejectedInput) as caught:
        good.evaluate()
    assert caught.value.rule == "unreadable_model"
    assert not trap.exists()


def test_a_type_that_is_not_on_our_list_is_refused(good: Case, tmp_path: Path) -> None:
    replace_model(good, lambda path: skops.io.dump({"model": Exploit(str(tmp_path / "ran"))}, path))
    with pytest.raises(RejectedInput) as caught:
        good.evaluate()
    assert caught.value.rule == "untrusted_type"
    assert "Exploit" in caught.value.reason


def test_a_harmless_model_that_gives_no_scores_is_refused(good: Case) -> None:
    replace_model(good, lambda path: skops.io.dump(DummyClassifier(), path))
    with pytest.raises(RejectedInput) as caught:
        good.evaluate()
    assert caught.value.rule == "unreadable_model"


def test_a_zip_without_a_model_is_refused(good: Case) -> None:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("schema.json", "{}")

    replace_model(good, write)
    with pytest.raises(RejectedInput) as caught:
        good.evaluate()
    assert caught.value.rule == "unreadable_model"


@pytest.mark.parametrize(
    "change",
    [
        {"score_quantiles": [0.5]},
        {"artifact": {"key": "elsewhere/model.skops", "sha256": "0" * 64, "bytes": 1}},
        {"dataset": "sensors"},
        {"features": []},
        {"schema_version": 9},
    ],
)
def test_a_card_that_is_not_ours_is_refused(good: Case, change: dict[str, Any]) -> None:
    good.card |= change
    with pytest.raises(RejectedInput) as caught:
        good.evaluate()
    assert caught.value.rule == "malformed_card"


def test_silver_that_is_not_what_the_card_says_is_refused(good: Case) -> None:
    pl.DataFrame({"other": [1]}).write_parquet(good.silver)
    with pytest.raises(RejectedInput) as caught:
        good.evaluate()
    assert caught.value.rule == "unreadable_data"


class Reader(HTMLParser):
    """What a page opens, and what it fetches from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "xlink:href", "srcset")]


def test_the_report_is_one_file_with_four_plots_and_escapes_what_comes_from_data(case: MakeCase) -> None:
    frame = silver_rows(1000, attack_every=20).with_columns(
        pl.col("label").replace("port_scan", "<script>alert(1)</script>")
    )
    outcome = case(frame).evaluate()
    (report,) = outcome.beside
    assert report.key.endswith("plan_000003.v1-bbbbbb/report.html")
    assert report.content_type.startswith("text/html")
    page = report.path.read_text()
    reader = Reader()
    reader.feed(page)
    assert "script" not in reader.tags
    assert "link" not in reader.tags
    assert reader.fetched == []
    assert "url(" not in page
    assert reader.tags.count("svg") == 4
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "silver-etag" in page
