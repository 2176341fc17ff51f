"""The programs of this folder, as modules: it is no package."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def program() -> Callable[[str], ModuleType]:
    """Load a program by its name, without running it."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # Where dataclasses look for what annotations name.
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    return load
