"""How a source becomes parts, and that it becomes the same ones each time."""

import bz2
import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import zstandard

from acequia.datasets import Dataset
from acequia.errors import RejectedInput
from acequia_ingestor._spool import Spool
from acequia_ingestor.decompress import unpacked
from acequia_ingestor.formats._lines import blocks
from acequia_ingestor.parse import ParseOptions, parse_file

Parse = Callable[..., Any]

ZSTD = zstandard.ZstdCompressor(write_checksum=True)
HEADER = "timestamp,src_ip,dst_ip,bytes,duration,protocol"


def lines(n: int, *, bad: frozenset[int] = frozenset()) -> str:
    """`n` records, of which those numbered (from 1) in `bad` cannot be read."""
    return "\n".join(
        [HEADER, *(f"{i},10.0.0.1,10.0.0.2,{'x' if i in bad else i},0.5,tcp" for i in range(1, n + 1)), ""]
    )


def test_part_n_holds_the_records_of_its_range_without_the_unparsable_ones(parse: Parse) -> None:
    parts = parse(lines(25, bad=frozenset({3, 10, 11})), rows_per_part=10).parsed.parts
    assert [(p.number, p.rows) for p in parts] == [(1, 8), (2, 9), (3, 5)]
    assert pl.read_parquet(parts[1].path)["bytes"].to_list() == list(range(12, 21))
    assert parts[2].time_range == ("1970-01-01T00:00:21.000000+00:00", "1970-01-01T00:00:25.000000+00:00")


def test_a_part_of_which_nothing_is_left_is_not_written_and_the_numbers_stay(parse: Parse) -> None:
    parts = parse(lines(25, bad=frozenset(range(11, 21))), rows_per_part=10).parsed.parts
    assert [(p.number, p.rows) for p in parts] == [(1, 10), (3, 5)]


def test_a_source_that_ends_with_a_part_has_no_empty_one_after_it(parse: Parse) -> None:
    assert [p.rows for p in parse(lines(20), rows_per_part=10).parsed.parts] == [10, 10]


def test_the_same_file_gives_the_same_bytes(
    parse: Parse, network_events: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = lines(40_000, bad=frozenset({7, 30_000}))
    first, second = parse(text, rows_per_part=15_000).parsed, parse(text, rows_per_part=15_000).parsed
    assert [p.path.read_bytes() for p in first.parts] == [p.path.read_bytes() for p in second.parts]
    assert first.rejected_rows.read_bytes() == second.rejected_rows.read_bytes()
    # nor does it matter how much is read at once, or held in memory
    monkeypatch.setattr(blocks, "__defaults__", (100_000,))
    monkeypatch.setattr(Spool.__init__, "__defaults__", (200_000,))
    third = parse(text, rows_per_part=15_000).parsed
    assert [p.path.read_bytes() for p in first.parts] == [p.path.read_bytes() for p in third.parts]


def test_nothing_but_the_parts_and_the_rejected_rows_is_left(parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spool.__init__, "__defaults__", (10_000,))
    parsed = parse(gzip.compress(lines(5_000, bad=frozenset({7})).encode()), rows_per_part=4_000).parsed
    folder = parsed.parts[0].path.parent
    assert sorted(p.name for p in folder.iterdir()) == ["part-0001.parquet", "part-0002.parquet", "rejected.parquet"]


def test_raw_has_the_canonical_columns_and_the_line(parse: Parse, network_events: Dataset) -> None:
    assert dict(parse(lines(3)).rows.schema) == {**network_events.schema, "_line": pl.Int64()}


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, ZSTD.compress])
def test_packed_files_are_told_by_their_bytes(parse: Parse, pack: Callable[[bytes], bytes]) -> None:
    assert parse(pack(lines(30).encode()), name="wrong.csv").rows["_line"].to_list() == list(range(2, 32))


def test_several_gzip_members_are_one_file(parse: Parse) -> None:
    text = lines(30).encode()
    packed = gzip.compress(text[:100]) + gzip.compress(text[100:400]) + gzip.compress(text[400:]) + b"\0" * 512
    assert parse(packed).rows.height == 30


def skippable(content: bytes) -> bytes:
    """A frame of zstd that bears no content."""
    return b"\x53\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content


def test_several_zstd_frames_are_one_file_and_skippable_ones_are_skipped(parse: Parse) -> None:
    text = lines(30).encode()
    begin = skippable(b"index") + ZSTD.compress(text[:100]) + skippable(b"")
    packed = begin + ZSTD.compress(b"") + ZSTD.compress(text[100:]) + skippable(b"x" * 200_000) + b"\0" * 512
    assert parse(packed).rows.height == 30


def test_zstd_that_ends_in_a_skippable_frame_is_truncated(parse: Parse) -> None:
    with pytest.raises(RejectedInput) as caught:
        parse((ZSTD.compress(lines(30).encode()) + skippable(b"index"))[:-2], format="canonical_csv")
    assert caught.value.rule == "truncated"


def test_zstd_of_a_window_as_wide_as_zstd_undoes_unasked_is_read_and_a_wider_one_is_not(parse: Parse) -> None:
    text = lines(30).encode()

    def packed(log: int) -> bytes:
        parameters = zstandard.ZstdCompressionParameters(window_log=log, enable_ldm=True)
        packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        return packer.compress(text) + packer.flush()

    assert parse(packed(27)).rows.height == 30
    with pytest.raises(RejectedInput, match="more than 128 MiB of memory") as caught:
        parse(packed(28))
    assert caught.value.rule == "unreadable"


def test_what_comes_out_of_zstd_at_once_is_bounded() -> None:
    # one block of four bytes stands for 128 KiB of the same byte; a frame of window 2 MiB, blocks without an end
    block = ((131_072 << 3) | (1 << 1)).to_bytes(3, "little") + b"A"
    packed = b"\x28\xb5\x2f\xfd\x00\x58" + block * 50_000
    pieces = unpacked(io.BytesIO(packed), "zstd")
    assert max(len(next(pieces)) for _ in range(200)) == 2**20


def test_thousands_of_empty_gzip_members_before_the_text_are_no_matter(parse: Parse) -> None:
    empty = gzip.compress(b"", mtime=0)
    assert parse(empty * 50_000 + gzip.compress(lines(3).encode())).rows.height == 3


def test_a_large_packed_file_is_whole_after_unpacking(parse: Parse) -> None:
    assert parse(gzip.compress(lines(200_000).encode()), max_ratio=1000).rows.height == 200_000


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, ZSTD.compress])
@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_packed_file_that_ends_in_the_middle_is_truncated(
    parse: Parse, pack: Callable[[bytes], bytes], keep: float
) -> None:
    packed = pack(lines(30_000).encode())
    with pytest.raises(RejectedInput) as caught:
        parse(packed[: int(len(packed) * keep)], format="canonical_csv")
    assert caught.value.rule == "truncated"


@pytest.mark.parametrize("pack", [gzip.compress, ZSTD.compress])
def test_damaged_data_are_unreadable(parse: Parse, pack: Callable[[bytes], bytes]) -> None:
    packed = bytearray(pack(lines(3_000).encode()))
    packed[-6 if pack is gzip.compress else -2] ^= 0xFF  # of the checksum
    with pytest.raises(RejectedInput) as caught:
        parse(bytes(packed), format="canonical_csv")
    assert caught.value.rule == "unreadable"


@pytest.mark.parametrize("pack", [gzip.compress, ZSTD.compress])
def test_something_else_behind_the_packed_data_is_not_ignored(parse: Parse, pack: Callable[[bytes], bytes]) -> None:
    with pytest.raises(RejectedInput) as caught:
        parse(pack(lines(3).encode()) + b"surprise, surprise", format="canonical_csv")
    assert caught.value.rule == "unreadable"


@pytest.mark.parametrize("pack", [gzip.compress, ZSTD.compress])
@pytest.mark.parametrize("limits", [{"max_ratio": 50.0}, {"max_bytes": 20 * 2**20}])
def test_a_bomb_is_not_unpacked_to_its_end(
    parse: Parse, tmp_path: Path, limits: dict[str, float], pack: Callable[[bytes], bytes]
) -> None:
    bomb = pack(HEADER.encode() + b"\n" + b"0" * (64 * 2**20))
    with pytest.raises(RejectedInput) as caught:
        parse(bomb, format="canonical_csv", **limits)
    assert caught.value.rule == "zip_bomb"
    assert not list(tmp_path.rglob(".unpacked*"))


@pytest.mark.parametrize("content", [b"", gzip.compress(b""), ZSTD.compress(b""), b"\x50\x2a\x4d\x18" + bytes(4)])
def test_a_file_without_bytes_is_empty(parse: Parse, content: bytes) -> None:
    for format in (None, "zeek_tsv"):
        with pytest.raises(RejectedInput) as caught:
            parse(content, format=format)
        assert caught.value.rule == "empty"


def test_too_many_rows_are_refused(parse: Parse) -> None:
    assert parse(lines(10), max_rows=10).rows.height == 10
    with pytest.raises(RejectedInput) as caught:
        parse(lines(11), max_rows=10)
    assert caught.value.rule == "too_many_rows"


def test_a_claim_is_of_the_bytes_and_of_all_options() -> None:
    options = ParseOptions("network_events", "zeek_tsv")
    assert options.claim_digest("a" * 64) == ParseOptions("network_events", "zeek_tsv").claim_digest("a" * 64)
    others = {
        options.claim_digest("b" * 64),
        ParseOptions("network_events", "zeek_csv").claim_digest("a" * 64),
        ParseOptions("other", "zeek_tsv").claim_digest("a" * 64),
    }
    assert len(others | {options.claim_digest("a" * 64)}) == 4


def test_a_source_is_only_read(network_events: Dataset, tmp_path: Path) -> None:
    source = tmp_path / "given.csv"
    source.write_text(lines(5))
    source.chmod(0o400)
    parse_file(source, "given.csv", network_events, None, tmp_path / "out")
    assert source.read_text() == lines(5)
