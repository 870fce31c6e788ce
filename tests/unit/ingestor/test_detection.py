"""What a file is, by its content; what its dataset is, by whatever says so first."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from acequia.datasets import Dataset, Registry, load_registry
from acequia.errors import RejectedInput
from acequia_ingestor.detect import choose_dataset, read_head, resolve_format
from acequia_ingestor.formats import Head, load_formats

Parse = Callable[..., Any]

CANONICAL = b"timestamp,src_ip,dst_ip,bytes,duration,protocol\n1,10.0.0.1,10.0.0.2,3,0.5,tcp\n"
ZEEK_CSV = (
    b"ts,uid,id.orig_h,id.orig_p,id.resp_h,id.resp_p,proto,duration,conn_state,orig_ip_bytes\n1,C,a,1,b,2,tcp,,S0,5\n"
)
ZEEK_TSV = b"#separator \\x09\n#path\tconn\n#fields\t" + ZEEK_CSV.replace(b",", b"\t")
ZEEK_JSON = b'{"ts":1.5,"id.orig_h":"a","id.resp_h":"b","proto":"tcp","conn_state":"S0"}\n'
FORMATS = {"canonical_csv": CANONICAL, "zeek_csv": ZEEK_CSV, "zeek_tsv": ZEEK_TSV, "zeek_json": ZEEK_JSON}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["conn.log", "network_events.csv", "x.parquet", "x.json", ""])
def test_the_content_tells_whatever_the_name_says(format: str, name: str, parse: Parse) -> None:
    assert parse(FORMATS[format], name=name).parsed.format == format


@pytest.mark.parametrize(
    "content",
    [
        b"hello\n",
        b"a,b,c\n1,2,3\n",
        b'{"event_type":"flow","src_ip":"a"}\n',
        b"\x00\x01\x02\xff" * 100,
        b"[]\n",
        b"\n\n\n",
        "timestamp,src_ip,dst_ip,bytes,duration,protocol\n".encode("utf-16"),
        b"#separator \\x09\n#path\tdns\n#fields\tts\tid.orig_h\tid.resp_h\tproto\tduration\tconn_state\n",
    ],
)
def test_content_of_no_known_format_is_refused_with_the_list_of_formats(
    parse: Parse, network_events: Dataset, content: bytes
) -> None:
    with pytest.raises(RejectedInput) as caught:
        parse(content, name="mystery.txt")
    assert caught.value.rule == "unknown_format"
    assert "mystery.txt" in caught.value.reason
    for name in network_events.formats:
        assert name in caught.value.reason


def test_content_that_may_be_two_formats_is_not_guessed_at(parse: Parse) -> None:
    both = b"timestamp,src_ip,dst_ip,bytes,duration,protocol,ts,id.orig_h,id.resp_h,proto,conn_state\n"
    with pytest.raises(RejectedInput, match="zeek_csv or canonical_csv: name one") as caught:
        parse(both)
    assert caught.value.rule == "ambiguous_format"


def test_a_format_that_the_dataset_does_not_have_is_refused(network_events: Dataset, tmp_path: Path) -> None:
    with pytest.raises(RejectedInput, match="it has zeek_tsv, zeek_json, zeek_csv"):
        resolve_format(tmp_path / "nothing", "x", network_events, "xml")


def test_every_format_that_the_datasets_name_exists() -> None:
    formats = load_formats()
    for dataset in load_registry().values():
        assert set(dataset.formats) <= set(formats)


def test_a_head_is_the_beginning_of_what_is_packed(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "x"
    path.write_bytes(gzip.compress(CANONICAL * 10_000))
    head = read_head(path)
    assert (len(head.data), head.whole) == (64 * 2**10, False)
    assert head.data.startswith(CANONICAL)


@pytest.fixture
def registry(network_events: Dataset) -> Registry:
    other = replace(network_events, name="other", patterns=("other*", "conn*.both"), formats=("zeek_json",))
    mine = replace(network_events, patterns=("conn*.log*", "conn*.both"), formats=("zeek_tsv", "canonical_csv"))
    return Registry({"network_events": mine, "other": other})


@pytest.mark.parametrize(
    ("metadata", "key", "content", "expected"),
    [
        ("other", "network_events/conn.log", ZEEK_TSV, "other"),
        (None, "other/conn.log", ZEEK_TSV, "other"),
        (None, "network_events/uploads/other.bin", b"", "network_events"),
        (None, "anything/other.log", ZEEK_TSV, "other"),
        (None, "CONN.LOG", ZEEK_JSON, "network_events"),
        (None, "other", ZEEK_TSV, "other"),
        (None, "x/nothing.txt", ZEEK_JSON, "other"),
        (None, "conn.both", ZEEK_TSV, "network_events"),
    ],
)
def test_metadata_then_folder_then_pattern_then_content(
    metadata: str | None, key: str, content: bytes, expected: str, registry: Registry
) -> None:
    head = Head(content, key, whole=True)
    assert choose_dataset(metadata, key, head, registry, load_formats()).name == expected


@pytest.mark.parametrize(("metadata", "key"), [("nothing", "network_events/conn.log"), (None, "x/mystery.txt")])
def test_where_nothing_says_what_it_is_the_datasets_are_listed(
    metadata: str | None, key: str, registry: Registry
) -> None:
    with pytest.raises(RejectedInput, match="network_events, other") as caught:
        choose_dataset(metadata, key, Head(b"?\n", key, whole=True), registry, load_formats())
    assert caught.value.rule == "unknown_dataset"


def test_content_of_two_datasets_is_not_guessed_at(network_events: Dataset) -> None:
    twins = Registry({n: replace(network_events, name=n, patterns=()) for n in ("a", "b")})
    with pytest.raises(RejectedInput, match="it may be a or b"):
        choose_dataset(None, "x", Head(ZEEK_TSV, whole=True), twins, load_formats())
