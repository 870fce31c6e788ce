#!/usr/bin/env python3
"""(a) A plain script that does the same compute in one process: source -> RAW -> SILVER -> model -> evaluation.

No queue, no object store, no audit: Acequia's pure functions, called one after the other, with files in a folder.

    plain.py --rows 100000           one chain, and what it gave
    plain.py --file conn.log
    plain.py --serve                 the same for `run.py`, warm: a JSON request a line in, a JSON answer a line out
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from acequia.datasets import load_registry
from acequia.layers import Layer, Stem, data_key, folder_key
from acequia.stage import Candidate
from acequia.work import Input, Outcome, Work, variant_of
from acequia_evaluator.evaluate import champion_key, evaluate, needs
from acequia_evaluator.settings import EvaluatorSettings
from acequia_ingestor.parse import Parsed, parse_file, write_drawn
from acequia_ingestor.sources.synthetic import SyntheticSource, draw_network_events
from acequia_trainer.settings import TrainerSettings
from acequia_trainer.train import compose, train
from acequia_transformer.settings import TransformerSettings
from acequia_transformer.transform import transform

DATASET = "network_events"
VARIANT = variant_of("1", {})


class Plain:
    """Runs chains in the folder it is given; the champion of one is there for the next, as in Acequia."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = load_registry()
        self.dataset = self.registry[DATASET]
        self.transformer = TransformerSettings()
        self.trainer = TrainerSettings(window_objects=0)
        self.evaluator = EvaluatorSettings()
        self.plans = 0
        self.steps: dict[str, float] = {}

    def synthetic(self, rows: int, seed: int, anomaly_rate: float) -> dict[str, Any]:
        """One chain over `rows` drawn events."""
        now = datetime.now(UTC).replace(microsecond=0)
        source = SyntheticSource(kind="synthetic", rows=rows, seed=seed, anomaly_rate=anomaly_rate)
        return self.chain([lambda out: write_drawn(draw_network_events(source, now), self.dataset, "synthetic", out)])

    def files(self, files: Sequence[Path]) -> dict[str, Any]:
        """One chain over some files: each is parsed and transformed, one model is trained on all and evaluated."""

        def reading(path: Path) -> Callable[[Path], Parsed]:
            return lambda out: parse_file(path, path.name, self.dataset, None, out)

        return self.chain([reading(path) for path in files])

    def chain(self, sources: Sequence[Callable[[Path], Parsed]]) -> dict[str, Any]:
        """Seconds by step, and rows by layer."""
        self.steps = dict.fromkeys(("ingest", "transform", "train", "evaluate"), 0.0)
        rows: dict[str, int] = dict.fromkeys(("in", "raw", "silver", "duplicate", "rejected"), 0)
        run_id = uuid4()
        now = datetime.now(UTC).replace(microsecond=0)
        silver: list[tuple[Stem, Path, Outcome]] = []
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            for number, read in enumerate(sources):
                folder = Path(name) / f"{number}"
                parsed = self.timed("ingest", read, folder)
                rows["in"] += parsed.rows_in
                rows["rejected"] += sum(parsed.rejected.values())
                for part in parsed.parts:
                    rows["raw"] += part.rows
                    stem = Stem(DATASET, now, f"{number:016x}", part.number)
                    out = folder / f"silver-{part.number}"
                    out.mkdir()
                    done = self.timed("transform", self.transform, stem, part.path, run_id, out)
                    rows["silver"] += done.rows_out
                    rows["duplicate"] += done.rows_duplicate
                    rows["rejected"] += sum(done.rejected.values())
                    silver.append((stem, done.output, done))
            trained = Path(name) / "trained"
            trained.mkdir()
            card = self.timed("train", self.train, silver, run_id, trained)
            judged = Path(name) / "judged"
            judged.mkdir()
            evaluation = self.timed("evaluate", self.evaluate, trained / "model.json", card, silver, judged)
            seconds = time.perf_counter() - began
        return {
            "seconds": seconds,
            "steps": self.steps,
            "rows": rows,
            "metrics": dict(evaluation.metrics),
        }

    def timed(self, step: str, act: Callable[..., Any], *given: Any) -> Any:
        began = time.perf_counter()
        try:
            return act(*given)
        finally:
            self.steps[step] += time.perf_counter() - began

    def transform(self, stem: Stem, raw: Path, run_id: UUID, out: Path) -> Outcome:
        given = Input(Layer.RAW, data_key(stem), "etag", str(raw), raw.stat().st_size)
        work = Work("transformer", VARIANT, stem, DATASET, run_id, (given,))
        return transform(work, [raw], out, registry=self.registry, burst_seconds=self.transformer.burst_seconds)

    def train(self, silver: Sequence[tuple[Stem, Path, Outcome]], run_id: UUID, out: Path) -> Mapping[str, Any]:
        """The card, as it was written to `out/model.json`."""
        self.plans += 1
        now = datetime.now(UTC).replace(microsecond=0)
        stem = Stem(DATASET, now, plan=self.plans)
        inputs, candidates = [], []
        for part, path, outcome in silver:
            first, last = outcome.time_range or ("", "")
            key, size, rows = data_key(part, VARIANT), path.stat().st_size, outcome.rows_out
            inputs.append(Input(Layer.SILVER, key, "etag", str(path), size, rows))
            candidates.append(Candidate(key, "etag", str(part), VARIANT, size, rows, first, last, str(run_id)))
        plan = {
            "number": self.plans,
            "created_at": now.isoformat(),
            "inputs": [asdict(c) for c in candidates],
            **compose(candidates, (), settings=self.trainer),
        }
        work = Work("trainer", VARIANT, stem, DATASET, uuid4(), tuple(inputs), plan)
        paths = [path for _, path, _ in silver]
        card = dict(train(work, paths, out, registry=self.registry, settings=self.trainer).document or {})
        (out / "model.json").write_text(json.dumps(card, indent=1))
        return card

    def evaluate(
        self, card_path: Path, card: Mapping[str, Any], silver: Sequence[tuple[Stem, Path, Outcome]], out: Path
    ) -> Outcome:
        stem = Stem.parse(str(card["model"]).partition(".")[0])
        assert stem is not None
        champion = self.folder / "champion.json"
        files = {data_key(part, VARIANT): path for part, path, _ in silver}
        files[card["artifact"]["key"]] = card_path.parent / "model.skops"
        files[champion_key(DATASET)] = champion
        first = Input(Layer.MODELS, folder_key(stem, VARIANT, "model.json"), "etag", str(card_path))
        work = Work("evaluator", VARIANT, stem, DATASET, UUID(card["run_id"]), (first,))
        refs = needs(work, card_path)
        further = (Input(r.layer, r.key, "" if r.optional else "etag", r.key) for r in refs)
        outcome = evaluate(
            replace(work, inputs=(first, *further)),
            [card_path, *(files[r.key] for r in refs)],
            out,
            registry=self.registry,
            settings=self.evaluator,
        )
        if outcome.pointer is not None:
            champion.write_text(json.dumps(outcome.pointer.document))
        (out / "evaluation.json").write_text(json.dumps(outcome.document, indent=1))
        return outcome


def serve(plain: Plain) -> None:
    """Requests: `{"rows", "seed", "anomaly_rate"}` or `{"files": [path, ...]}`."""
    for line in sys.stdin:
        asked = json.loads(line)
        answer = plain.files([Path(p) for p in asked["files"]]) if "files" in asked else plain.synthetic(**asked)
        print(json.dumps(answer), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--rows", type=int, default=10_000, help="draw so many events (default 10000)")
    what.add_argument("--file", type=Path, action="append", help="read this file instead; may be given again")
    what.add_argument("--serve", action="store_true", help="requests from standard input, a line each")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--anomaly-rate", type=float, default=0.02)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="acequia-bench-") as name, suppress(KeyboardInterrupt):
        plain = Plain(Path(name))
        if options.serve:
            serve(plain)
        elif options.file:
            print(json.dumps(plain.files(options.file), indent=1))
        else:
            print(json.dumps(plain.synthetic(options.rows, options.seed, options.anomaly_rate), indent=1))


if __name__ == "__main__":
    main()
