"""What is asked of each load of a table, and what follows where the answer is wrong."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict

from acequia.datasets import Dataset, OnFailure, Registry
from acequia.errors import RejectedInput
from acequia_ingestor.tables.asking import Asking, Position, relation_name
from acequia_ingestor.tables.columns import TIMES
from acequia_ingestor.tables.connect import Snapshot

USUAL: Mapping[str, OnFailure] = MappingProxyType(
    {
        "row_count": OnFailure.BLOCK,
        "duplicate_keys": OnFailure.BLOCK,
        "references": OnFailure.WARN,
        "freshness": OnFailure.WARN,
        "contract": OnFailure.WARN,
    }
)
"""The checks that every table has. `contract` warns: the transformer sets the rows that break it apart, one by one. But
of a full load it blocks: the transformer would reject a part, and the others alone can't replace the table."""


class CheckResult(BaseModel):
    """A check of one load. `found` and `expected` are numbers of the check's own unit."""

    model_config = ConfigDict(frozen=True)

    name: str
    on_failure: OnFailure
    passed: bool
    found: float | int | None = None
    expected: float | int | None = None


def severity(dataset: Dataset, check: str, *, full: bool = False) -> OnFailure:
    """What follows where the check fails. `full`: of a full load."""
    assert dataset.table is not None
    usual = OnFailure.BLOCK if full and check == "contract" else USUAL[check]
    return dataset.table.severities.get(check, usual)


def failed(results: Sequence[CheckResult], on_failure: OnFailure) -> list[str]:
    return [result.name for result in results if not result.passed and result.on_failure is on_failure]


class Counted(BaseModel):
    """What reading counted of a load, over all its stretches so far."""

    model_config = ConfigDict(frozen=True)

    read: int = 0
    """Rows that the load's own question gave: without those that comparing keys brought."""
    rows: int = 0
    """Rows in parts."""
    deleted: int = 0
    """Those of them that say that their key is gone."""
    rejected: Mapping[str, int] = {}
    broken: int = 0
    """Rows that break the contract."""
    worst: float = 0.0
    """Their share in that part of the load where it is highest: a part is what the transformer judges."""
    checks: Mapping[str, int] = {}
    """Rows that fail a check of the dataset's, by its name."""

    @property
    def rows_in(self) -> int:
        return self.rows + sum(self.rejected.values())


def check_load(
    asking: Asking,
    snapshot: Snapshot,
    registry: Registry,
    counted: Counted,
    before: Counted,
    until: Position | None,
) -> list[CheckResult]:
    """Every check of a load as a stretch of it sees it, in its own snapshot. `before`: what earlier stretches counted;
    `until`: where this one was cut off. RejectedInput where a question can't be asked."""
    relation, dataset = asking.relation, asking.relation.dataset
    table = dataset.table
    assert table is not None
    expected = before.read + int(snapshot.value(asking.count(until)))
    results = [
        CheckResult(
            name="row_count",
            on_failure=severity(dataset, "row_count"),
            passed=counted.read == expected,
            found=counted.read,
            expected=expected,
        )
    ]
    twice = 0 if relation.unique else int(snapshot.value(asking.duplicates()))
    results.append(_none_of("duplicate_keys", severity(dataset, "duplicate_keys"), twice))
    for column, (other, target) in table.references.items():
        relation_of = registry[other].table if other in registry else None
        if relation_of is None or column not in {*table.columns, *(c.name for c in relation.columns)}:
            continue  # a column that the source no longer has refers to nothing
        sql = asking.dangling(column, relation_name(relation_of.relation), target)
        results.append(_none_of(f"references_{column}", severity(dataset, "references"), int(snapshot.value(sql))))
    cursor = asking.cursor()
    if table.fresh_within is not None and cursor is not None and cursor.base in TIMES:
        age = snapshot.value(asking.age())
        hours = round(age / 3600, 3) if age is not None else None
        allowed = table.fresh_within.total_seconds() / 3600
        results.append(
            CheckResult(
                name="freshness",
                on_failure=severity(dataset, "freshness"),
                passed=hours is None or hours <= allowed,
                found=hours,
                expected=allowed,
            )
        )
    results.append(
        CheckResult(
            name="contract",
            on_failure=severity(dataset, "contract", full=asking.since is None),
            passed=counted.worst <= dataset.max_rejected_share and counted.worst < 1,
            found=round(counted.worst, 6),
            expected=dataset.max_rejected_share,
        )
    )
    for check in dataset.checks:
        if check.sql is not None:
            results.append(_none_of(check.name, check.on_failure, _number(check.name, snapshot, check.sql)))
        else:
            results.append(_none_of(check.name, check.on_failure, counted.checks.get(check.name, 0)))
    return results


def _number(name: str, snapshot: Snapshot, sql: str) -> int | float:
    try:
        found = snapshot.value(f"SELECT (found)::float8 AS found FROM ({sql}) AS asked (found)")
    except RejectedInput as error:
        raise RejectedInput(error.rule, f"the check {name} can't be asked: {error.reason}") from error
    if found is None:
        return 0
    return int(found) if float(found).is_integer() else float(found)


def _none_of(name: str, on_failure: OnFailure, found: float) -> CheckResult:
    return CheckResult(name=name, on_failure=on_failure, passed=found == 0, found=found, expected=0)
