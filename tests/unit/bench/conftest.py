"""The bench's scripts as modules: they are programs, and lie in no package."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).resolve().parents[3] / "bench"


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        path = list(sys.path)
        sys.path.insert(0, str(BENCH))  # where a program finds its neighbours
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        sys.path[:] = path
        return module

    return load
