"""The two commands of the README, and what comes after them, as a newcomer types them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from almagest_cli.local.ports import free_usual_ports

# Each goes on where the one before left off, on one system.
pytestmark = pytest.mark.xdist_group("newcomer")
VEHICLES = 9_581


class CommandLine:
    def __init__(self, state: Path) -> None:
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("ALMAGEST_", "OTEL_"))
        } | {"ALMAGEST_STATE": str(state), "COLUMNS": "200"}

    def __call__(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "almagest_cli", *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        assert done.returncode == code, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))


@pytest.fixture(scope="module")
def almagest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    command = CommandLine(tmp_path_factory.mktemp("newcomer") / "state")
    ports = free_usual_ports()
    command("up", "--port", str(ports.gateway), "--base-port", str(min(ports.grpc.values())))
    yield command
    command("reset", "--yes")


def test_the_demo_follows_up_without_another_word(almagest: CommandLine) -> None:
    """Who made the system is logged in: the vehicles go in at once, and a second time changes nothing."""
    almagest("demo")
    again = almagest.json("demo")
    assert again["progress"]["rows_unchanged"] == VEHICLES
    assert again["progress"]["rows_done"] == VEHICLES


def test_what_went_in_comes_out(almagest: CommandLine) -> None:
    """Found by its words, read by its SKU, explained by its history."""
    volvo = almagest.json("search", "volvo v60")["items"][0]
    product = almagest.json("get", volvo["sku"])
    assert product["attributes"]["make"] == "Volvo"
    assert "ProductCreated" in almagest("history", volvo["sku"])


def test_the_last_request_is_shown_as_a_tree_across_the_services(almagest: CommandLine) -> None:
    """A read made by a person is traced, without anything set up for it."""
    almagest("list", "--kind", "truck")
    shown = almagest("trace", "--last", "1")
    assert "gateway" in shown
    assert "catalog-query" in shown


def test_everything_is_up(almagest: CommandLine) -> None:
    """Status ends well, and names six services."""
    status = almagest.json("status")
    assert status["ready"]
    assert len(status["processes"]) == len(("postgres", "valkey", "certificates")) + 6
