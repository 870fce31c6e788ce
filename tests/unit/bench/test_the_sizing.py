"""What `--only sizing` tells is what it measured: no servers are needed for these."""

import os
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import polars as pl

Script = Callable[[str], ModuleType]


def test_the_table_has_medians_and_what_a_second_replica_brings(script: Script) -> None:
    sizing = script("sizing")
    load = sizing.Load("small", 10, 100)

    def measured(replicas: int, seconds: float, **processor: float) -> Any:
        return load, sizing.Measured("transformer", replicas, 10, 1000, seconds, processor)

    found = [measured(1, s, stage=0.2, minio=0.1) for s in (2.0, 1.0, 9.0)] + [measured(2, 1.25, stage=0.3)]
    *_, one, two = sizing.table(found).splitlines()
    assert one == "| small | transformer | 1 | 5.0 | 500 |  | 20.0 | 10.0 | 0.0 | 0.0 |"
    assert two == "| small | transformer | 2 | 8.0 | 800 | 1.60 | 30.0 | 0.0 | 0.0 | 0.0 |"
    assert sizing.documents(found)[0]["processor"] == {"stage": 0.2, "minio": 0.1}


def test_files_are_as_many_and_as_long_as_asked_for_and_no_two_alike(script: Script) -> None:
    sizing = script("sizing")
    bodies = list(sizing.files(sizing.Load("small", 3, 20), seed=1))
    assert len({*bodies}) == 3
    assert [len(pl.read_csv(body)) for body in bodies] == [20, 20, 20]


def test_the_processors_time_of_a_process_and_of_its_children_is_told(script: Script) -> None:
    sizing = script("sizing")
    busy = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert 0.3 <= sizing._used(process.pid) < 10
        process.communicate(b"\n")
    assert sizing._used(os.getpid()) > 0
