"""Frames in, one Parquet file out, with a bounded share of them in memory at any time."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

ROW_GROUP_ROWS = 122_880
ROW_GROUP_BYTES = 64 * 2**20
"""A row group is made in memory: with long texts it has fewer rows."""
SPILL_BYTES = 48 * 2**20


class Spool:
    """Collects frames of one schema; what is over `spill_bytes` waits in files beside `path` until `close`.

    The same rows give the same bytes, however they were cut into frames.
    """

    def __init__(self, path: Path, schema: Mapping[str, pl.DataType], spill_bytes: int = SPILL_BYTES) -> None:
        self.path = path
        self.rows = 0
        self._schema = schema
        self._spill_bytes = spill_bytes
        self._held: list[pl.DataFrame] = []
        self._held_bytes = 0
        self._text_bytes = 0
        self._texts = [name for name, dtype in schema.items() if dtype == pl.String]
        self._spilled: list[Path] = []

    def add(self, frame: pl.DataFrame) -> None:
        if not frame.height:
            return
        self._held.append(frame)
        self._held_bytes += int(frame.estimated_size())
        self._text_bytes += sum(int(frame[name].str.len_bytes().sum()) for name in self._texts)
        self.rows += frame.height
        if self._held_bytes > self._spill_bytes:
            self._spill()

    def _spill(self) -> None:
        path = self.path.with_name(f".{self.path.name}.{len(self._spilled)}.arrow")
        pl.concat(self._held).write_ipc(path, compression="uncompressed")
        self._spilled.append(path)
        self._held, self._held_bytes = [], 0

    def close(self) -> Path:
        """Write the file and forget the rest. One without rows still has the schema."""
        frames = [pl.scan_ipc(path) for path in self._spilled]
        frames += [frame.lazy() for frame in self._held or ([] if frames else [pl.DataFrame(schema=self._schema)])]
        # by the content alone, so that the same rows give the same bytes
        rows = ROW_GROUP_BYTES * self.rows // max(self._text_bytes, 1)
        pl.concat(frames).sink_parquet(
            self.path,
            compression="zstd",
            compression_level=1,
            row_group_size=max(1, min(rows, ROW_GROUP_ROWS)) if self.rows else ROW_GROUP_ROWS,
            maintain_order=True,
        )
        for path in self._spilled:
            path.unlink()
        self._held, self._spilled = [], []
        return self.path
