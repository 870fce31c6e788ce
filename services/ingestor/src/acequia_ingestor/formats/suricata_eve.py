"""Suricata's EVE log: JSON lines of many kinds of events, of which those with `event_type` = `flow` are rows.

Other events are skipped and counted under their `event_type`; under `other_event` where Suricata has no such type, or
the line has none. The time is `flow.start` (ISO 8601 with any offset), never the line's `timestamp`, which says when
the event was written; the duration is `flow.end` - `flow.start`. `bytes` is bytes_toserver + bytes_toclient; a side
that is not there adds nothing. Null: a key that is not there, `null`, and an empty text. Further keys are ignored.

Layout: Suricata 7 user guide, "Eve JSON Format".
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from acequia.datasets import Dataset
from acequia_ingestor.formats import Chunk, Format, Head
from acequia_ingestor.formats._columns import chunk, in_form, typed
from acequia_ingestor.formats._flows import both_ways, flow_fields
from acequia_ingestor.formats._json import decode, object_of
from acequia_ingestor.formats._lines import blocks, faulty, is_blank, numbered, reject, without

NAMES = {
    "timestamp": ("flow.start",),
    "end": ("flow.end",),
    "src_ip": ("src_ip",),
    "dst_ip": ("dest_ip",),
    "protocol": ("proto",),
    "src_port": ("src_port",),
    "dst_port": ("dest_port",),
    "src_bytes": ("flow.bytes_toserver",),
    "dst_bytes": ("flow.bytes_toclient",),
    "src_packets": ("flow.pkts_toserver",),
    "dst_packets": ("flow.pkts_toclient",),
    "conn_state": ("flow.state",),
}
_PLACES = {name: name for names in NAMES.values() for name in names}
_IN_FLOW = tuple(name.removeprefix("flow.") for name in _PLACES if name.startswith("flow."))
_SHAPE: dict[str, pl.DataType] = {
    "event_type": pl.String(),
    **{name: pl.String() for name in _PLACES if not name.startswith("flow.")},
    "flow": pl.Struct({name: pl.String() for name in _IN_FLOW}),
}
_EVENT_TYPES = (
    "alert anomaly arp bittorrent_dht dcerpc dhcp dnp3 dns doh2 drop engine enip fileinfo frame ftp ftp_data http "
    "http2 ike ikev2 krb5 ldap mdns metadata modbus mqtt netflow nfs packet pgsql pop3 quic rdp rfb sip smb smtp "
    "snmp ssh stats telnet template tftp tls websocket"
)
EVENT_TYPES = frozenset(_EVENT_TYPES.split())
"""What Suricata writes beside `flow`."""
NULLS = ("",)
_TIME = in_form("%Y-%m-%dT%H:%M:%S%.f%#z", zoned=True)


def detect(head: Head, dataset: Dataset) -> bool:
    for line in [text for text in head.lines() if text.strip()][:100]:
        if not line.lstrip().startswith("{") or (record := object_of(line)) is None:
            return False
        if isinstance(record.get("event_type"), str) and "timestamp" in record:
            return True
    return False


def read(path: Path, dataset: Dataset) -> Iterator[Chunk]:
    fields = flow_fields(NAMES, _PLACES, dataset.lowered, quick={"timestamp": _TIME, "end": _TIME})
    for block in blocks(path):
        candidates, blank = without(block.lines, is_blank())
        texts, is_object = decode(candidates["line"], _SHAPE, block.data_of(candidates))
        is_flow = (texts["event_type"] == "flow").fill_null(value=False)
        skipped = {"blank": blank}
        for event, count in texts["event_type"].filter(is_object & ~is_flow).value_counts().iter_rows():
            reason = event if event in EVENT_TYPES else "other_event"
            skipped[reason] = skipped.get(reason, 0) + count
        inner = texts["flow"].struct.unnest()
        whole = candidates.hstack(texts.drop("flow")).hstack(inner.rename({name: f"flow.{name}" for name in _IN_FLOW}))
        records = numbered(whole.with_columns(is_object.alias("_object")).filter(is_flow | ~is_object))
        good, unreadable = faulty(records)
        broken = reject(good.filter(~pl.col("_object")), "broken_json", "the line is no JSON object")
        rows, unparsable = typed(good.filter("_object"), fields, NULLS)
        counted = rows.with_columns(
            bytes=both_ways("bytes"),
            duration=(pl.col("end") - pl.col("timestamp")).dt.total_microseconds() / 1e6,
        )
        yield chunk(counted, [unreadable, broken, unparsable], dataset.schema, skipped)


FORMAT = Format("suricata_eve", "Suricata EVE (JSON lines)", detect, read)
