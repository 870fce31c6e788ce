"""Features of network events.

Logarithms are natural. `log1p(x)` is ln(1 + x). An interval is ln(1e-6 + seconds): the resolution of the clock is a
microsecond, and scans differ from people by orders of magnitude below a second. Null: not measurable.

Of the row itself:
    log_bytes             log1p of bytes
    log_duration          log1p of the duration in seconds; null where it was not measured
    duration_missing      1 where the duration was not measured, else 0
    duration_zero         1 where it was measured as zero, else 0
    log_bytes_rate        log1p of bytes per second (of at least a microsecond); null where duration is zero or null
    protocol_rarity       -ln of the protocol's share of the object's rows (the one feature that sees the whole object)

Of what the object held before the row. "Before" is the order of (timestamp, `_line`): where two events have the same
time the line decides. A later row never changes an earlier row's value. The past begins with the object: for the first
event of a source or a pair the interval is null.
    source_interval       interval since the source's event before
    pair_interval         interval since the event before of this source to this destination
    pair_interval_change  absolute difference of pair_interval from the one before: near 0 for a steady beat
    new_destination       1 where the source was not seen with this destination before, else 0
    log_fan_out           log1p of the source's distinct destinations, this row's among them
    log_ports_seen        log1p of the source's distinct destination ports, this row's among them; null without a port
    log_recent_events     log1p of the source's events in the last `burst_seconds`, this one not counted
"""

import math

import polars as pl

NAMES = (
    "log_bytes",
    "log_duration",
    "duration_missing",
    "duration_zero",
    "log_bytes_rate",
    "protocol_rarity",
    "source_interval",
    "pair_interval",
    "pair_interval_change",
    "new_destination",
    "log_fan_out",
    "log_ports_seen",
    "log_recent_events",
)
"""In the order of SILVER's columns."""

MICROSECONDS = 1_000_000


def add_features(frame: pl.DataFrame, burst_seconds: int) -> pl.DataFrame:
    """`frame` with the columns of `NAMES` behind its own.

    `frame` is sorted by (timestamp, `_line`) and not empty. Independent of the number of threads.
    """
    past = _past(frame, burst_seconds)
    measured = pl.col("duration").is_not_null()
    share = pl.len().over("protocol") / frame.height
    return frame.with_columns(
        pl.col("bytes").log1p().alias("log_bytes"),
        pl.col("duration").log1p().alias("log_duration"),
        (~measured).cast(pl.Int8).alias("duration_missing"),
        (measured & (pl.col("duration") == 0)).cast(pl.Int8).alias("duration_zero"),
        pl.when(pl.col("duration") > 0)
        .then((pl.col("bytes") / pl.col("duration").clip(lower_bound=1 / MICROSECONDS)).log1p())
        .alias("log_bytes_rate"),
        # 0.0 - x, not -x: a protocol that is alone has rarity 0, not -0
        (0.0 - share.log()).alias("protocol_rarity"),
    ).hstack(past.get_columns())


def _past(frame: pl.DataFrame, burst_seconds: int) -> pl.DataFrame:
    """The features of the second group, one row for each row of `frame`, in its order."""
    rows = frame.select(
        pl.int_range(pl.len(), dtype=pl.Int64).alias("row"),
        pl.col("timestamp").to_physical().alias("at"),
        _codes(frame["src_ip"]),
        _codes(frame["dst_ip"]),
        pl.col("dst_port").cast(pl.Int64).alias("port"),
    )
    # the first row, in time, that is younger than the burst's length
    burst_from = rows["at"].search_sorted(rows["at"] - burst_seconds * MICROSECONDS, side="right")
    rows = rows.with_columns(
        burst_from.cast(pl.Int64).alias("burst_from"),
        (pl.col("src_ip") * frame.height + pl.col("dst_ip")).alias("pair"),
    ).with_columns(
        pl.col("pair").is_first_distinct().alias("new_destination"),
        # ports fit into 16 bits; where there is none, nothing is counted
        ((pl.col("src_ip") * 65536 + pl.col("port")).is_first_distinct() & pl.col("port").is_not_null()).alias(
            "new_port"
        ),
    )
    pairs = rows.sort("pair", maintain_order=True).select("row", _interval("pair").alias("pair_interval"), "pair")
    pairs = pairs.select(
        "row",
        "pair_interval",
        (pl.col("pair_interval") - pl.col("pair_interval").shift(1))
        .abs()
        .alias("pair_interval_change"),  # null at a pair's first two events: the first has no interval
    )
    sources = rows.sort("src_ip", maintain_order=True)
    # (source, row) as one ascending number: where in `sources` a source's burst begins is one binary search
    keys = sources.select(pl.col("src_ip") * (frame.height + 1) + pl.col("row")).to_series()
    begins = keys.search_sorted(
        sources.select(pl.col("src_ip") * (frame.height + 1) + pl.col("burst_from")).to_series(), side="left"
    )
    by_source = sources.select(
        "row",
        _interval("src_ip").alias("source_interval"),
        pl.col("new_destination").cast(pl.Int8),
        _count_so_far("new_destination").log1p().alias("log_fan_out"),
        pl.when(pl.col("port").is_not_null()).then(_count_so_far("new_port").log1p()).alias("log_ports_seen"),
        (pl.int_range(pl.len(), dtype=pl.Int64) - begins.cast(pl.Int64)).log1p().alias("log_recent_events"),
    )
    return (
        by_source.sort("row")
        .hstack(pairs.sort("row").drop("row").get_columns())
        .select([name for name in NAMES if name in {*by_source.columns, *pairs.columns}])
    )


def _codes(values: pl.Series) -> pl.Series:
    """Small numbers, equal where `values` are: by order of appearance, Int64."""
    numbers = values.unique(maintain_order=True).to_frame().with_row_index("code")
    return (
        values.to_frame()
        .join(numbers, on=values.name, how="left", maintain_order="left", nulls_equal=True)["code"]
        .cast(pl.Int64)
        .alias(values.name)
    )


def _interval(group: str) -> pl.Expr:
    """ln(1e-6 + seconds) since the row before; null at the first row of `group`. Rows: by group, then time."""
    seconds = (pl.col("at") - pl.col("at").shift(1)) / MICROSECONDS
    return pl.when(pl.col(group) == pl.col(group).shift(1)).then((seconds + 1 / MICROSECONDS).log(math.e))


def _count_so_far(flag: str) -> pl.Expr:
    return pl.col(flag).cast(pl.Int64).cum_sum().over("src_ip")
