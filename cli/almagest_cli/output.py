"""What commands print: for people, or with `--json` for programs; and how they end.

Results go to standard output, everything else (progress, hints, errors) to standard error, so that `almagest list
--json | jq` always works.
"""

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import IntEnum
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.markup import escape

_WIDTH_OF_FILES = 250
"""Nothing is cut to fit a screen where there is none."""

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _WIDTH_OF_FILES)
err = Console(stderr=True, highlight=False, soft_wrap=True, width=None if sys.stderr.isatty() else _WIDTH_OF_FILES)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


class Exit(IntEnum):
    """The exit codes, which `almagest --help` documents."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    UNREACHABLE = 3
    FORBIDDEN = 4
    REFUSED = 5


class CommandError(Exception):
    """A command cannot do what it was asked to.

    Attributes:
        code: how the process ends.
        hint: what to do about it.
        details: the same for programs.
    """

    def __init__(
        self, message: str, *, code: Exit = Exit.FAILURE, hint: str = "", details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint
        self.details = dict(details or {})


def print_json(value: Any) -> None:
    """Print a value as one line of JSON; bytes are taken to be JSON already."""
    encoded = value if isinstance(value, bytes) else orjson.dumps(value)
    sys.stdout.buffer.write(encoded.rstrip(b"\n") + b"\n")
    sys.stdout.buffer.flush()


def report(error: CommandError, *, as_json: bool) -> None:
    """Tell what went wrong on standard error."""
    if as_json:
        content = {"error": str(error), "hint": error.hint or None, "exit_code": int(error.code)} | error.details
        sys.stderr.buffer.write(orjson.dumps(content) + b"\n")
        sys.stderr.buffer.flush()
        return
    err.print(f"[bold red]Error:[/] {escape(str(error))}")
    if error.hint:
        err.print(f"[dim]{escape(error.hint)}[/]")


def note(text: str) -> None:
    """Tell people something that is not the result."""
    err.print(text)


def money(price: Mapping[str, Any] | None) -> str:
    """A price for people."""
    return "" if price is None else f"{price['amount']} {price['currency']}"


def size(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":  # noqa: PLR2004 - that is what KiB means
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def ago(moment: str) -> str:
    """How long ago an RFC 3339 time was, for people."""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    return f"{duration(max(0, round(seconds)))} ago" if seconds >= 1 else "now"


def duration(seconds: float) -> str:
    """A span of time for people."""
    if seconds < 0.001:  # noqa: PLR2004 - a millisecond
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest:.0f} s" if minutes else f"{rest:.1f} s"
