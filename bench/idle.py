#!/usr/bin/env python3
"""One of Acequia's services with a stage that computes nothing: what is left is the framework, which `run.py` holds
against the floor.

    idle.py ingestor | transformer | trainer | evaluator

The ingestor puts the file as it is, the transformer copies it, trainer and evaluator write a few words.
"""

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx

from acequia.app import Service, batch_service, serve, stage_service
from acequia.runner import Workshop
from acequia.settings import AcequiaSettings, load
from acequia.stage import needs_nothing
from acequia.work import Outcome, Work
from acequia_evaluator.settings import EvaluatorSettings
from acequia_evaluator.stage import build_stage as evaluator
from acequia_ingestor.api import AuditorClient
from acequia_ingestor.ingest import Ingestor
from acequia_ingestor.parse import Parsed, PartFile
from acequia_ingestor.service import build_ingestor
from acequia_ingestor.settings import IngestorSettings
from acequia_trainer.settings import TrainerSettings
from acequia_trainer.stage import build_stage as trainer
from acequia_transformer.settings import TransformerSettings
from acequia_transformer.stage import build_stage as transformer

FORMAT = "canonical_csv"
"""Of the files that the bench drops: one that is read in one way alone, so that nothing looks into them."""


def as_it_is(source: Path, file_name: str, dataset: Any, format: str | None, out: Path, **limits: Any) -> Parsed:
    """Stands in for `parse_file`."""
    out.mkdir()
    part = out / "part-0001.parquet"
    shutil.copyfile(source, part)
    return Parsed((PartFile(1, part, 1, None),), 1, FORMAT)


def copy(work: Work, inputs: Sequence[Path], out: Path) -> Outcome:
    output = out / "silver.parquet"
    shutil.copyfile(inputs[0], output)
    return Outcome(output=output, rows_in=1, rows_out=1)


def a_few_words(work: Work, inputs: Sequence[Path], out: Path) -> Outcome:
    return Outcome(document={"model": str(work.stem)})


def build(name: str, workshop: Workshop, settings: AcequiaSettings) -> Sequence[Service]:
    match name:
        case "ingestor":
            own = load(IngestorSettings)
            read_run = AuditorClient(httpx.AsyncClient(base_url=own.auditor_url))
            return (build_ingestor(workshop, own, read_run, concurrency=settings.concurrency),)
        case "transformer":
            stage = replace(transformer(load(TransformerSettings), workshop.registry), process=copy)
            return (stage_service(stage, workshop, settings.concurrency),)
        case "trainer":
            batch = replace(trainer(load(TrainerSettings), workshop.registry), process=a_few_words)
            return (batch_service(batch, workshop),)
        case _:
            stage = replace(
                evaluator(load(EvaluatorSettings), workshop.registry), process=a_few_words, needs=needs_nothing
            )
            return (stage_service(stage, workshop, settings.concurrency),)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("ingestor", "transformer", "trainer", "evaluator"))
    name = parser.parse_args().name
    with (
        patch("acequia_ingestor.ingest.parse_file", as_it_is),
        patch.object(Ingestor, "_recognise", lambda self, source, key, info: ("network_events", FORMAT)),
    ):
        serve(name, lambda workshop, settings: build(name, workshop, settings))


if __name__ == "__main__":
    main()
