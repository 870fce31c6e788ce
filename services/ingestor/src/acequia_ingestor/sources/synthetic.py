"""Network events of a small company, drawn: a day or a week of benign traffic, and labelled attacks in it.

Benign: volume follows the hour; a stable set of hosts, some far busier than others, talks to servers and services of
its own; bytes have heavy tails and go with the durations; some connections get no answer, and single packets have no
duration. Attacks come in episodes spread over the whole span: `port_scan` (many destinations and ports, nothing
answers), `flood` (many short, fat flows at one server), `beaconing` (small, regular, held open)
and `exfiltration` (few, large, outwards). The same source and end give the same events.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from acequia.datasets import Dataset, Registry
from acequia.errors import RejectedInput
from acequia_ingestor.formats import REJECTED_SCHEMA, Chunk
from acequia_ingestor.settings import IngestorSettings
from acequia_ingestor.sources import AskedFor, Source, named

CHUNK_ROWS = 131_072
_WEEK_FROM_ROWS = 200_000
_MICROS = 1_000_000
_BIN_SECONDS = 300
_EPISODES = 5
"""Of each kind. Each falls into another fifth of the events, so that a hold-out by time sees every kind."""
_ATTACKS = (("port_scan", 0.40), ("flood", 0.25), ("beaconing", 0.15), ("exfiltration", 0.20))


class SyntheticSource(AskedFor):
    """Network events drawn by our own generator, reproducible by `seed`."""

    kind: Literal["synthetic"]
    rows: Annotated[int, Field(ge=1, description="How many events to draw")] = 10_000
    seed: Annotated[int, Field(ge=0, le=2**63 - 1, description="The same seed gives the same events")] = 7
    anomaly_rate: Annotated[float, Field(ge=0, le=0.5, description="Share of labelled attacks")] = 0.02


Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Service:
    """How one kind of benign conversation looks. Sizes and durations are lognormal: median and sigma of the log."""

    name: str
    share: float
    protocol: str
    port: int
    outside: bool
    servers: int
    up: tuple[float, float]
    down: tuple[float, float]
    seconds: tuple[float, float]
    tail: float = 0.0
    """Share of conversations whose bytes have a Pareto tail on top."""
    silent: float = 0.01
    """Share that gets no answer."""


SERVICES: tuple[Service, ...] = (
    Service("dns", 0.295, "udp", 53, False, 2, (62, 0.25), (160, 0.5), (0.018, 1.0), silent=0.02),
    Service("https", 0.360, "tcp", 443, True, 400, (1_900, 0.9), (9_500, 1.5), (1.6, 1.6), tail=0.05, silent=0.015),
    Service("quic", 0.070, "udp", 443, True, 120, (3_200, 0.9), (22_000, 1.5), (4.0, 1.4), tail=0.05),
    Service("http", 0.050, "tcp", 80, True, 150, (520, 0.6), (3_800, 1.4), (0.5, 1.5), tail=0.03, silent=0.02),
    Service("ntp", 0.035, "udp", 123, True, 6, (48, 0.02), (48, 0.02), (0.030, 0.6), silent=0.06),
    Service("smb", 0.050, "tcp", 445, False, 3, (2_600, 1.3), (6_000, 1.9), (2.4, 1.7), tail=0.04),
    Service("imaps", 0.030, "tcp", 993, True, 4, (1_100, 0.7), (5_000, 1.3), (9.0, 1.5)),
    Service("postgres", 0.035, "tcp", 5432, False, 2, (1_400, 1.0), (4_200, 1.6), (0.9, 1.8)),
    Service("ssh", 0.012, "tcp", 22, False, 8, (3_600, 1.2), (5_200, 1.3), (45.0, 1.7)),
    Service("ping", 0.025, "icmp", 0, False, 10, (56, 0.05), (56, 0.05), (0.0009, 0.8), silent=0.05),
    Service("mdns", 0.030, "udp", 5353, False, 1, (180, 0.4), (1, 0.0), (0.2, 1.2), silent=1.0),
    Service("backup", 0.008, "tcp", 873, False, 1, (2.2e7, 1.3), (30_000, 0.6), (70.0, 0.9)),
)
_MULTICAST = "224.0.0.251"


def attack_rows(source: SyntheticSource) -> int:
    """How many rows are attacks: the asked share, and at least one where any is asked of ten rows or more."""
    wanted = round(source.rows * source.anomaly_rate)
    return max(wanted, 1) if source.anomaly_rate > 0 and source.rows >= 10 else wanted


@dataclass(frozen=True, slots=True)
class Episode:
    """One attack: `rows` events between two points of the span (in seconds from its beginning)."""

    kind: str
    rows: int
    begin: float
    end: float
    attacker: int
    """Index of the host it comes from."""
    target: int


class Company:
    """Hosts, servers, the day's rhythm, and the attacks on it: all that stays the same over the span."""

    def __init__(self, source: SyntheticSource, end: datetime) -> None:
        rng = np.random.default_rng([source.seed, 0])
        self.seconds = float((7 if source.rows >= _WEEK_FROM_ROWS else 1) * 86_400)
        self.begin = end - timedelta(seconds=self.seconds)
        hosts = int(np.clip(30 + source.rows // 20_000, 30, 400))
        third = rng.integers(0, 200)
        self.hosts = [f"10.{third}.{n // 200}.{n % 200 + 20}" for n in range(hosts)]
        self.hosts_v6 = [f"2001:db8:{third + 1:x}::{n + 32:x}" for n in range(hosts)]
        self.host_weights = _zipf(rng.permutation(hosts), 0.9)
        self.internal = [f"10.{third}.250.{n + 10}" for n in range(40)]
        addresses = _outside_addresses(rng, 664)
        self.outside, self.strangers = addresses[:600], addresses[600:]
        self.outside_v6 = [f"2001:db8:{n + 0x1000:x}::{n % 7 + 1:x}" for n in range(60)]
        edges = np.arange(0.0, self.seconds + 1, _BIN_SECONDS)
        hour = (self.begin.hour + self.begin.minute / 60 + edges[:-1] / 3600) % 24
        volume = 0.18 + np.exp(-(((hour - 10.5) / 2.6) ** 2)) + 0.9 * np.exp(-(((hour - 15.0) / 2.8) ** 2))
        self.edges = edges
        self.cumulative = np.concatenate([[0.0], np.cumsum(volume)]) / volume.sum()
        self.episodes = self._plan(rng, attack_rows(source))

    def at(self, share: Floats) -> Floats:
        """Seconds from the beginning by which this share of the benign events has happened."""
        return np.asarray(np.interp(share, self.cumulative, self.edges), dtype=np.float64)

    def _plan(self, rng: np.random.Generator, rows: int) -> list[Episode]:
        shares = np.array([share for _, share in _ATTACKS])
        episodes = []
        for (kind, _), n in zip(_ATTACKS, _apportion(rows, shares), strict=True):
            count = min(n, _EPISODES)
            attacker = int(rng.integers(0, len(self.hosts)))
            target = int(rng.integers(0, len(self.strangers)))
            for number, size in enumerate(_apportion(n, np.full(count, 1.0)) if count else []):
                low, high = self.at(np.array([number / count, (number + 1) / count]))
                if kind == "beaconing":
                    # one implant, all the time: the pieces follow each other
                    begin, end = low, high
                else:
                    pace = {"port_scan": 0.4, "flood": 0.15, "exfiltration": 60.0}[kind] * rng.uniform(0.5, 2.0)
                    length = min(size * pace, 0.8 * (high - low))
                    begin = rng.uniform(low, high - length)
                    end = begin + length
                    attacker = int(rng.integers(0, len(self.hosts)))
                    target = int(rng.integers(0, len(self.strangers)))
                episodes.append(Episode(kind, int(size), float(begin), float(end), attacker, target))
        return episodes

    @cached_property
    def _first_server(self) -> Ints:
        inside = np.cumsum([0] + [0 if s.outside else s.servers for s in SERVICES[:-1]])
        outside = np.cumsum([0] + [s.servers // 4 if s.outside else 0 for s in SERVICES[:-1]])
        return np.where([s.outside for s in SERVICES], outside, inside).astype(np.int64)

    def server(self, service: int, rank: Ints) -> Ints:
        """Index of a server among those inside or outside; services share some of those outside."""
        pool = len(self.outside) if SERVICES[service].outside else len(self.internal)
        return np.asarray((self._first_server[service] + rank) % pool, dtype=np.int64)


def draw_network_events(source: SyntheticSource, start: datetime) -> Iterator[Chunk]:
    """`source.rows` events that end at `start`, by time, in chunks of bounded size."""
    company = Company(source, start)
    benign = source.rows - attack_rows(source)
    chunks = -(-source.rows // CHUNK_ROWS)
    counts = np.random.default_rng([source.seed, 1]).multinomial(benign, np.full(chunks, 1 / chunks))
    limits = company.at(np.linspace(0, 1, chunks + 1))
    line = 1
    for number in range(chunks):
        rng = np.random.default_rng([source.seed, 2, number])
        low, high = float(limits[number]), float(limits[number + 1])
        last = number == chunks - 1
        frames = [_benign(rng, company, int(counts[number]), number / chunks, (number + 1) / chunks)]
        frames += [_attack(rng, company, episode, low, high, last=last) for episode in company.episodes]
        rows = pl.concat(frames).sort("timestamp", maintain_order=True)
        rows = rows.with_columns(
            _line=pl.int_range(pl.len(), dtype=pl.Int64) + line, _record=pl.int_range(pl.len(), dtype=pl.Int64)
        )
        line += rows.height
        yield Chunk(rows, pl.DataFrame(schema=dict(REJECTED_SCHEMA)), rows.height)


def _benign(rng: np.random.Generator, company: Company, n: int, low: float, high: float) -> pl.DataFrame:
    at = company.at(rng.uniform(low, high, n))
    host = rng.choice(len(company.hosts), n, p=company.host_weights)
    shares = np.array([s.share for s in SERVICES])
    kind = rng.choice(len(SERVICES), n, p=shares / shares.sum())

    def of(values: Sequence[float]) -> Floats:
        return np.array(values, dtype=np.float64)[kind]

    size, other, own = rng.standard_normal(n), rng.standard_normal(n), rng.standard_normal(n)
    up = of([s.up[0] for s in SERVICES]) * np.exp(of([s.up[1] for s in SERVICES]) * (0.6 * size + 0.8 * own))
    down = of([s.down[0] for s in SERVICES]) * np.exp(of([s.down[1] for s in SERVICES]) * size)
    seconds = of([s.seconds[0] for s in SERVICES]) * np.exp(
        of([s.seconds[1] for s in SERVICES]) * (0.6 * size + 0.8 * other)
    )
    tail = rng.random(n) < of([s.tail for s in SERVICES])
    down = np.where(tail, down * (1 + rng.pareto(1.2, n)), down)
    silent = rng.random(n) < of([s.silent for s in SERVICES])

    protocol = np.array([s.protocol for s in SERVICES])[kind]
    tcp, icmp = protocol == "tcp", protocol == "icmp"
    rank = np.minimum(rng.zipf(1.25, n) - 1, 2**31).astype(np.int64)
    servers = np.array([s.servers for s in SERVICES])[kind]
    # a host has favourites of its own: the ranks are turned by the host
    rank = (rank % servers + host * 7) % servers
    server = np.select(
        [kind == k for k in range(len(SERVICES))], [company.server(k, rank) for k in range(len(SERVICES))]
    )
    outside = np.array([s.outside for s in SERVICES])[kind]
    v6 = outside & (server % 9 == 0)
    multicast = kind == [s.name for s in SERVICES].index("mdns")
    src = _pick(company.hosts, host, (v6, company.hosts_v6, host))
    dst = _pick(
        company.internal,
        np.where(outside, 0, server),
        (outside, company.outside, server),
        (v6, company.outside_v6, server % len(company.outside_v6)),
        (multicast, [_MULTICAST], np.zeros(n, dtype=np.int64)),
    )
    port = np.array([s.port for s in SERVICES])[kind]
    fate = rng.random(n)
    state = np.where(tcp, np.select([fate < 0.93, fate < 0.96, fate < 0.98], ["SF", "RSTO", "RSTR"], "S1"), "SF")
    state = np.where(silent, np.where(tcp & (fate < 0.4), "REJ", "S0"), np.where(icmp, "OTH", state))
    src_port = np.where(icmp, 8, np.where(multicast, 5353, rng.integers(32_768, 61_000, n)))
    return _events(
        company, at, src, dst, src_port, port, protocol, state, np.where(silent & tcp, 0, up),
        np.where(silent, 0, down), seconds, silent, retries=rng.geometric(0.7, n), label="benign",
    )  # fmt: skip


def _attack(
    rng: np.random.Generator, company: Company, episode: Episode, low: float, high: float, *, last: bool
) -> pl.DataFrame:
    """The episode's events between `low` and `high` seconds (with `high` where it is the last slice)."""
    step = (episode.end - episode.begin) / episode.rows
    planned = episode.begin + (np.arange(*_between(episode, low, high, last=last)) + 0.5) * step
    n = planned.size
    host = np.full(n, episode.attacker)
    attacker = _pick(company.hosts, host)
    stranger = _pick(company.strangers, np.full(n, episode.target))
    tcp = np.full(n, "tcp")
    port = rng.integers(32_768, 61_000, n)
    nothing = np.zeros(n, dtype=np.bool_)
    match episode.kind:
        case "port_scan":
            at = planned + step * rng.uniform(-0.5, 0.5, n)
            neighbours = company.hosts + company.internal
            target = _pick(neighbours, rng.integers(0, len(neighbours), n))
            ports = rng.choice([21, 22, 23, 80, 135, 139, 443, 445, 1433, 3306, 3389, 5432, 5900, 6379, 8080, 9200], n)
            ports = np.where(rng.random(n) < 0.4, rng.integers(1, 1025, n), ports)
            rejected = rng.random(n) < 0.35
            state = np.where(rejected, "REJ", "S0")
            return _events(
                company, np.clip(at, low, high), attacker, target, port, ports, tcp, state, np.zeros(n), np.zeros(n),
                np.exp(rng.normal(-7.5, 0.8, n)), ~nothing, retries=np.ones(n, dtype=np.int64), label="port_scan",
            )  # fmt: skip
        case "flood":
            at = planned + step * rng.uniform(-0.5, 0.5, n)
            target = _pick(company.internal, np.full(n, episode.target % len(company.internal)))
            up = np.exp(rng.normal(np.log(9e4), 0.9, n))
            return _events(
                company, np.clip(at, low, high), stranger, target, port, np.full(n, 80), np.full(n, "udp"),
                np.full(n, "S0"), up, np.zeros(n), np.exp(rng.normal(np.log(0.05), 0.8, n)), nothing,
                retries=np.ones(n, dtype=np.int64), label="flood",
            )  # fmt: skip
        case "beaconing":
            at = planned + step * rng.normal(0, 0.02, n)
            return _events(
                company, np.clip(at, low, high), attacker, stranger, port, np.full(n, 8443), tcp, np.full(n, "SF"),
                np.exp(rng.normal(np.log(420), 0.05, n)), np.exp(rng.normal(np.log(180), 0.05, n)),
                np.exp(rng.normal(np.log(55), 0.1, n)), nothing,
                retries=np.ones(n, dtype=np.int64), label="beaconing",
            )  # fmt: skip
        case _:
            at = planned + step * rng.uniform(-0.4, 0.4, n)
            size = rng.standard_normal(n)
            return _events(
                company, np.clip(at, low, high), attacker, stranger, port, np.full(n, 443), tcp, np.full(n, "SF"),
                np.exp(np.log(6e7) + 1.1 * size), np.exp(rng.normal(np.log(4e4), 0.6, n)),
                np.exp(np.log(120) + 0.7 * size + rng.normal(0, 0.4, n)), nothing,
                retries=np.ones(n, dtype=np.int64), label="exfiltration",
            )  # fmt: skip


def _between(episode: Episode, low: float, high: float, *, last: bool) -> tuple[int, int]:
    """Which of the episode's events are planned in [low, high): each belongs to exactly one slice."""

    def before(seconds: float) -> int:
        if episode.end <= episode.begin:
            return 0 if seconds <= episode.begin else episode.rows
        share = (seconds - episode.begin) / (episode.end - episode.begin)
        return int(np.clip(np.ceil(share * episode.rows - 0.5), 0, episode.rows))

    return (0 if low <= 0 else before(low)), (episode.rows if last else before(high))


def _events(
    company: Company,
    at: Floats,
    src: pl.Series,
    dst: pl.Series,
    src_port: Ints,
    dst_port: Ints,
    protocol: npt.NDArray[np.str_],
    state: npt.NDArray[np.str_],
    up: Floats,
    down: Floats,
    seconds: Floats,
    silent: Bools,
    *,
    retries: Ints,
    label: str,
) -> pl.DataFrame:
    """Canonical rows. `up` and `down` are payload; what goes over the wire has headers, and packets of 1,400 bytes.

    Where nothing answers (`silent`), a single packet has no duration.
    """
    tcp = protocol == "tcp"
    refused = state == "REJ"
    asked = np.where(silent, np.maximum(retries, 1), 1)
    header = np.where(tcp, 40, 28)
    src_packets = np.where(silent, asked, np.ceil(up / 1400) + np.where(tcp, 4, 0)).astype(np.int64)
    dst_packets = np.where(silent, refused, np.ceil(down / 1400) + np.where(tcp, 3, 0)).astype(np.int64)
    payload = np.where(silent & ~tcp, up * asked, up)
    src_bytes = (np.round(payload) + header * src_packets + np.where(silent & tcp, 20 * asked, 0)).astype(np.int64)
    dst_bytes = np.where(silent, 40 * dst_packets, np.round(down) + header * dst_packets).astype(np.int64)
    unmeasured = silent & (src_packets + dst_packets <= 1)
    micros = np.round(at * _MICROS).astype(np.int64)
    begin = pl.lit(company.begin).dt.cast_time_unit("us").dt.convert_time_zone("UTC")
    return pl.DataFrame(
        {
            "micros": micros,
            "src_ip": src,
            "dst_ip": dst,
            "bytes": src_bytes + dst_bytes,
            "duration": pl.Series(np.round(seconds, 6)).zip_with(
                pl.Series(~unmeasured), pl.Series([None], dtype=pl.Float64).new_from_index(0, at.size)
            ),
            "protocol": pl.Series(protocol.tolist(), dtype=pl.String),
            "src_port": src_port.astype(np.int32),
            "dst_port": dst_port.astype(np.int32),
            "src_bytes": src_bytes,
            "dst_bytes": dst_bytes,
            "src_packets": src_packets,
            "dst_packets": dst_packets,
            "conn_state": pl.Series(state.tolist(), dtype=pl.String),
        }
    ).select(
        (begin + pl.duration(microseconds=pl.col("micros"))).cast(pl.Datetime("us", "UTC")).alias("timestamp"),
        pl.exclude("micros"),
        pl.lit(label).alias("label"),
    )


def _pick(first: Sequence[str], index: Ints, *over: tuple[Bools, Sequence[str], Ints]) -> pl.Series:
    """Texts by their index in `first`; where a mask says so, by another index in another list (the last one wins)."""
    texts = [*first]
    places = index.astype(np.int64)
    for mask, pool, pool_index in over:
        places = np.where(mask, pool_index + len(texts), places)
        texts += pool
    return pl.Series(texts, dtype=pl.String).gather(places)


def _zipf(order: Ints, exponent: float) -> Floats:
    weights = 1.0 / (order + 1.0) ** exponent
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def _apportion(rows: int, shares: Floats) -> list[int]:
    """`rows` in whole numbers by `shares`, none lost (largest remainders)."""
    exact = rows * shares / shares.sum()
    whole = np.floor(exact).astype(np.int64)
    for index in np.argsort(whole - exact, kind="stable")[: rows - int(whole.sum())]:
        whole[index] += 1
    return [int(n) for n in whole]


def _outside_addresses(rng: np.random.Generator, n: int) -> list[str]:
    """Distinct addresses out of 198.18.0.0/15: reserved for tests, so that no one real is accused of an attack."""
    return [f"198.{18 + a // 65_536}.{a // 256 % 256}.{a % 256}" for a in rng.choice(131_072, n, replace=False)]


GENERATORS: Mapping[str, Callable[[SyntheticSource, datetime], Iterator[Chunk]]] = MappingProxyType(
    {"network_events": draw_network_events}
)
"""A generator for each dataset that has one."""


def datasets(
    source: SyntheticSource, dataset: str | None, registry: Registry, settings: IngestorSettings
) -> tuple[str, ...]:
    chosen = named(dataset, registry)
    if not chosen.synthetic or chosen.name not in GENERATORS:
        raise RejectedInput("no_such_source", f"{chosen.name} has no generator of synthetic rows.")
    if source.rows > settings.max_rows:
        raise RejectedInput(
            "too_many_rows",
            f"source.rows is {source.rows}; at most {settings.max_rows} are allowed.",
            allowed=settings.max_rows,
        )
    return (chosen.name,)


def draw(source: SyntheticSource, dataset: Dataset, start: datetime) -> Iterator[Chunk]:
    return GENERATORS[dataset.name](source, start)


SOURCE = Source("synthetic", "Drawn by a generator", SyntheticSource, datasets, draw)
