"""The command as a person runs it: a process with arguments, an environment, output and an exit code."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def state(tmp_path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def almagest(state, tmp_path) -> Callable[..., Done]:
    def run(*arguments: str, stdin: str = "", timeout: float = 60, **environment: str) -> Done:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ALMAGEST_", "OTEL_"))}
        done = subprocess.run(
            [sys.executable, "-m", "almagest_cli", *arguments],
            env=inherited | {"ALMAGEST_STATE": str(state), "COLUMNS": "200"} | environment,
            cwd=tmp_path,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert "Traceback" not in done.stderr or "The last lines of" in done.stderr or "said last" in done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    return run
