"""RAW events in, clean and feature-engineered SILVER events out; rows that break the contract apart.

SILVER has `_line` (the row's position in its source, for lineage), the canonical columns, then the features; sorted by
(event time, `_line`), or by `_line` where the dataset has no such time. The same input gives the same bytes, whatever
the number of threads.

Of a table (a dataset with a key), RAW and SILVER have no `_line` but `_version` and `_deleted`, in the order of RAW;
columns that its source has beyond the canonical ones are carried along, and a column may be of a wider type of its
kind. In quarantine `_line` is then the row's place in its object, from 1. An object without a row is one: it says that
a table is empty.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import dataframely as dy
import polars as pl

from acequia.datasets import Dataset, Registry, contract_with, widens
from acequia.errors import of_this_machine
from acequia.layers import Layer, rejected_rows_key
from acequia.work import Beside, Outcome, RejectedWhole, Work
from acequia_transformer.features import FEATURES

LINE = "_line"
RULE = "rule"
RULES = "rules"
ROW_GROUP = 250_000
BATCH_ROWS = 131_072
MAX_FRAME_BYTES = 2**29
"""Five times what 1,000,000 ordinary rows take."""
UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What polars raises for a damaged file. A panic is no Exception: it would get past whoever decides about a message."""
TOP_RULES = 3


def transform(work: Work, inputs: Sequence[Path], out: Path, *, registry: Registry, burst_seconds: int) -> Outcome:
    """Contract, then duplicates, then features; rows_in = rows_out + rows_duplicate + the sum of rejected.

    A rejected row counts under the first rule it breaks, in the contract's order; a duplicate equals an earlier row
    in every canonical column. Reads one RAW object (at most 1,000,000 rows of ours) into memory.

    Raises RejectedWhole, all rows then count as quarantined: `not_canonical` (not a Parquet file with the dataset's
    columns), `too_large` (it unpacks to more than MAX_FRAME_BYTES), `no_rows` (no row keeps the contract),
    `too_many_rejected` (more than the dataset's share breaks it).
    """
    dataset = registry[work.dataset]
    parameters = {"burst_seconds": burst_seconds, "max_rejected_share": dataset.max_rejected_share}
    frame = _read(inputs[0], dataset)
    rows_in = frame.height
    columns = [name for name in frame.columns if name != LINE]
    valid, broken = _apply_contract(frame, dataset)
    del frame
    rejected = _counts(broken)

    reason = f"{broken.height} of {rows_in} rows break the contract" + _top(rejected)
    if not valid.height and not (dataset.key and rows_in == 0):
        raise RejectedWhole(
            "no_rows",
            reason if rows_in else "the object holds no row",
            rows_in=rows_in,
            rejected=rejected,
            beside=_quarantine(work, broken, out),
            parameters=parameters,
        )
    if broken.height > dataset.max_rejected_share * rows_in:
        rest = valid.with_columns(
            pl.lit("too_many_rejected").alias(RULE), pl.lit([], dtype=pl.List(pl.String)).alias(RULES)
        )
        everything = pl.concat([broken, rest.select(broken.columns)]).sort(LINE, maintain_order=True)
        raise RejectedWhole(
            "too_many_rejected",
            f"{reason}; more than {dataset.max_rejected_share:.0%} is too many",
            rows_in=rows_in,
            rejected={**rejected, "too_many_rejected": valid.height},
            beside=_quarantine(work, everything, out),
            parameters=parameters,
        )

    rows_valid = valid.height
    kept = _first_of_equals(valid, columns)
    del valid
    silver = kept.sort(*((dataset.event_time,) if dataset.event_time else ()), LINE, maintain_order=True)
    del kept
    if add_features := FEATURES.get(dataset.name):
        silver = add_features(silver, burst_seconds)
    if dataset.key:
        silver = silver.drop(LINE)
    output = out / "silver.parquet"
    silver.write_parquet(output, compression="zstd", row_group_size=ROW_GROUP, statistics=True)
    return Outcome(
        output=output,
        beside=_quarantine(work, broken, out),
        rows_in=rows_in,
        rows_out=silver.height,
        rows_duplicate=rows_valid - silver.height,
        rejected=rejected,
        time_range=_time_range(silver, dataset.event_time),
        parameters=parameters,
    )


def _time_range(silver: pl.DataFrame, event_time: str | None) -> tuple[str, str] | None:
    """ISO 8601 of the first and the last event; None where no row says when it happened."""
    if event_time is None or (first := silver[event_time].min()) is None:
        return None
    last = silver[event_time].max()
    assert isinstance(first, datetime)
    assert isinstance(last, datetime)
    return first.isoformat(), last.isoformat()


def _read(path: Path, dataset: Dataset) -> pl.DataFrame:
    """The RAW object: `_line` and the stored columns, in the order of `_line`; of a table also those beyond them."""
    own = {} if dataset.key else {LINE: pl.Int64()}
    expected = pl.Schema({**own, **dataset.stored_schema})
    try:
        scan = pl.scan_parquet(path)
        found = scan.collect_schema()
        rows = scan.select(pl.len()).collect().item()
    except (*UNREADABLE, OSError) as error:
        if of_this_machine(error) or not path.exists():
            raise
        raise RejectedWhole("not_canonical", f"this is not a Parquet file: {error}") from error
    if dataset.key:
        found.pop(LINE, None)
        carried = {name: dtype for name, dtype in found.items() if name not in expected}
        expected = pl.Schema(
            {**{n: found[n] if _may_be(found.get(n), t) else t for n, t in expected.items()}, **carried}
        )
    wrong = [
        f"{name} is {str(found.get(name, 'missing'))[:100]}" for name, t in expected.items() if found.get(name) != t
    ]
    if wrong:
        reason = f"these are not the columns of {dataset.name}: {', '.join(wrong)}"
        raise RejectedWhole("not_canonical", reason, rows_in=rows, rejected={"not_canonical": rows} if rows else {})
    batches: list[pl.DataFrame] = []
    size = 0
    try:
        for batch in scan.select(expected.names()).collect_batches(chunk_size=BATCH_ROWS, maintain_order=True):
            size += int(batch.estimated_size())
            if size > MAX_FRAME_BYTES:
                reason = f"its {rows} rows unpack to more than {MAX_FRAME_BYTES >> 20} MiB"
                raise RejectedWhole("too_large", reason, rows_in=rows, rejected={"too_large": rows})
            batches.append(batch)
    except UNREADABLE as error:
        if of_this_machine(error):
            raise
        raise RejectedWhole(
            "not_canonical",
            f"this Parquet file is damaged: {error}",
            rows_in=rows,
            rejected={"not_canonical": rows} if rows else {},
        ) from error
    frame = pl.concat(batches) if batches else expected.to_frame()
    del batches
    if dataset.key:
        return frame.with_row_index(LINE, offset=1).with_columns(pl.col(LINE).cast(pl.Int64))
    return frame if frame[LINE].is_sorted() else frame.sort(LINE, maintain_order=True)


def _may_be(found: pl.DataType | None, expected: pl.DataType) -> bool:
    """Whether a table's column may have become this."""
    return found is not None and (found == expected or widens(found, expected))


def _first_of_equals(frame: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
    """The rows that equal no earlier one in `columns`, in their order.

    Rows are compared in full only where their hashes are equal: comparing all would take a copy of them all.
    """
    suspect = frame.select(columns).hash_rows().is_duplicated()
    if not suspect.any():
        return frame
    suspects = frame.select(columns).with_row_index("row").filter(suspect)
    first = suspects.unique(subset=columns, keep="first", maintain_order=True)["row"]
    return frame.filter((~suspect).scatter(first, True))


def _apply_contract(frame: pl.DataFrame, dataset: Dataset) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows that keep the contract, and those that do not, with `rule` (the first broken) and `rules` (all)."""
    judged = {name: dtype for name, dtype in frame.schema.items() if name == LINE or name in dataset.stored_schema}
    good, failure = _adapted(dataset.contract, judged).filter(frame.select(*judged))
    details = failure.details()
    order = list(frame.columns)
    names = [name for name in details.columns if name not in judged]
    broken_rules = pl.concat_list(
        [pl.when(pl.col(name) == "invalid").then(pl.lit(name)) for name in names] or [pl.lit(None, dtype=pl.String)]
    ).list.drop_nulls()
    broken = details.with_columns(broken_rules.alias(RULES)).select(
        LINE, pl.col(RULES).list.first().alias(RULE), RULES, *(name for name in judged if name != LINE)
    )
    if len(judged) == len(order):
        return pl.DataFrame(good).select(order), broken
    # a contract knows only its own columns: the others join by the row's place
    beyond = [LINE, *(name for name in order if name not in judged)]
    broken = broken.join(frame.select(beyond), on=LINE, how="left", maintain_order="left")
    return frame.join(pl.DataFrame(good).select(LINE), on=LINE, how="semi", maintain_order="left"), broken


def _adapted(contract: type[dy.Schema], columns: Mapping[str, pl.DataType]) -> type[dy.Schema]:
    """The same contract for rows that have all of `columns`: `filter` drops those that a contract does not name."""
    known = contract.columns()
    more = {name: dtype for name, dtype in columns.items() if name not in known or known[name].dtype != dtype}
    return contract_with(contract, more) if more else contract


def _counts(broken: pl.DataFrame) -> dict[str, int]:
    counts = broken.group_by(RULE).len().sort(RULE)
    return dict(zip(counts[RULE].to_list(), counts["len"].to_list(), strict=True))


def _top(rejected: dict[str, int]) -> str:
    top = sorted(rejected.items(), key=lambda item: (-item[1], item[0]))[:TOP_RULES]
    return ": " + ", ".join(f"{rule} {count}" for rule, count in top) if top else ""


def _quarantine(work: Work, broken: pl.DataFrame, out: Path) -> tuple[Beside, ...]:
    """The rejected rows as a file beside the outcome; nothing where there are none."""
    if not broken.height:
        return ()
    path = out / "rejected.parquet"
    broken.write_parquet(path, compression="zstd", row_group_size=ROW_GROUP, statistics=True)
    key = rejected_rows_key(work.stage, work.stem, work.variant)
    return (Beside(Layer.QUARANTINE, key, path, "application/vnd.apache.parquet"),)
