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
EVE = (
    b'{"timestamp":"2021-06-06T16:00:00Z","event_type":"flow","src_ip":"a","dest_ip":"b","proto":"TCP",'
    b'"flow":{"start":"2021-06-06T15:59:46Z","bytes_toserver":3}}\n'
)
ARGUS = (
    b"StartTime,Dur,Proto,SrcAddr,Sport,Dir,DstAddr,Dport,State,TotPkts,TotBytes,SrcBytes,Label\n"
    b"2011/08/10 09:46:53.047277,0.5,tcp,a,1,   ->,b,2,S_RA,4,276,156,\n"
)
NFDUMP = b"ts,te,td,sa,da,sp,dp,pr,flg,ipkt,ibyt,opkt,obyt\n2020-03-01 10:00:01,,0.5,a,b,1,2,TCP,......,1,2,0,0\n"
UNSW = b"59.166.0.0,1390,149.171.126.6,53,udp,CON,0.001,132,164" + b",0" * 19 + b",1421927414,1421927414" + b",0" * 19
CIC = (
    b"Flow ID, Source IP, Source Port, Destination IP, Destination Port, Protocol, Timestamp, Flow Duration,"
    b" Total Fwd Packets,Total Length of Fwd Packets, Total Length of Bwd Packets, Label\n"
    b"x,a,1,b,2,6,7/7/2017 3:30,5,1,2,3,BENIGN\n"
)
FORMATS = {
    "canonical_csv": CANONICAL,
    "zeek_csv": ZEEK_CSV,
    "zeek_tsv": ZEEK_TSV,
    "zeek_json": ZEEK_JSON,
    "suricata_eve": EVE,
    "argus": ARGUS,
    "nfdump_csv": NFDUMP,
    "unsw_nb15_csv": UNSW,
    "cic_ids2017_csv": CIC,
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["conn.log", "network_events.csv", "x.parquet", "x.json", ""])
def test_the_content_tells_whatever_the_name_says(format: str, name: str, parse: Parse) -> None:
    assert parse(FORMATS[format], name=name).parsed.format == format


def test_each_text_format_of_network_events_is_detected_by_itself_alone(network_events: Dataset) -> None:
    assert {*FORMATS, "canonical_parquet"} == set(network_events.formats)
    formats = load_formats()
    for name, content in FORMATS.items():
        head = Head(content, whole=True)
        assert [other for other in network_events.formats if formats[other].detect(head, network_events)] == [name]


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


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (b"0,udp,private,SF,28,0,0,normal,20\n" * 3, "a record of 9 fields without a header that names them"),
        (b"when;who;whom;how much\n1;2;3;4\n", "a header of 4 columns, not those of any format"),
        (b'{"event":"flow","from":"a"}\n', "JSON with the keys 'event', 'from'"),
        (b'{"\\ud800\\u0000":1}\n', r"JSON with the keys '\ud800\x00'"),
        (b"hello\n", "it begins with 'hello'; the formats"),
    ],
)
def test_a_refusal_says_what_was_seen(parse: Parse, content: bytes, seen: str) -> None:
    with pytest.raises(RejectedInput) as caught:
        parse(content)
    assert seen in caught.value.reason


@pytest.mark.parametrize(
    "name",
    [
        "eve.json", "eve-2021.json.gz", "capture20110810.binetflow", "x.binetflow.bz2", "nfcapd.202003011000.csv",
        "nfdump.csv.zst", "UNSW-NB15_1.csv", "Friday-WorkingHours-Morning.pcap_ISCX.csv", "conn.log",
    ],
)  # fmt: skip
def test_the_usual_names_of_sensors_files_tell_the_dataset(name: str) -> None:
    assert [dataset.name for dataset in load_registry().matching(name)] == ["network_events"]


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


def test_a_file_that_fits_no_dataset_is_told_what_was_seen(registry: Registry) -> None:
    head = Head(b"0,udp,private,SF,28,0,0\n", "KDDTrain.txt", whole=True)
    with pytest.raises(RejectedInput, match="a record of 7 fields without a header") as caught:
        choose_dataset(None, "KDDTrain.txt", head, registry, load_formats())
    assert caught.value.rule == "unknown_dataset"


def test_content_of_two_datasets_is_not_guessed_at(network_events: Dataset) -> None:
    twins = Registry({n: replace(network_events, name=n, patterns=()) for n in ("a", "b")})
    with pytest.raises(RejectedInput, match="it may be a or b; datasets"):
        choose_dataset(None, "x", Head(ZEEK_TSV, whole=True), twins, load_formats())
