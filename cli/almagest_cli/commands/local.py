"""`up`, `down`, `status`, `logs`, `reset`: the system on this machine."""

import datetime as dt
import os
import re
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TextIO

import orjson
import psutil
import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from almagest_cli import output
from almagest_cli.client import Client
from almagest_cli.local.daemons import tail
from almagest_cli.local.errors import LocalError, NotReadyError
from almagest_cli.local.layout import SERVICES, Ports
from almagest_cli.local.system import CERTIFICATES, POSTGRES, VALKEY, Report, Started, System
from almagest_cli.output import CommandError, Exit, Json, err, out
from almagest_cli.settings import ClientSettings, places

_FOLLOW_SECONDS = 0.2
_DATED = re.compile(r"\d{4}-\d\d-\d\d ")
_PROCESSES = (POSTGRES, VALKEY, CERTIFICATES, *(row.name for row in SERVICES))


def up(
    *,
    port: Annotated[int | None, typer.Option(help="The gateway's port.  [default: as last time, or 8443]")] = None,
    base_port: Annotated[
        int | None, typer.Option(help="The first of the services' inner ports.  [default: as last time, or 9101]")
    ] = None,
    shards: Annotated[
        int | None, typer.Option(min=1, max=64, help="Databases per kind of data.  [default: as last time, or 2]")
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(min=1, help="Seconds for each service to be ready, once all databases are migrated."),
    ] = 90,
    as_json: Json = False,
) -> None:
    """Start the whole system on this machine, and say where it is.

    What runs already stays. If something cannot be started, nothing is left running.
    """
    started_at = time.monotonic()
    with local_errors(), _progress(quiet=as_json) as report:
        ports = None
        if port is not None or base_port is not None:
            usual = System(places().state).ports
            first = base_port or min(usual.grpc.values())
            ports = Ports.usual(gateway=port or usual.gateway, base=first)
        system = System(places().state, ports=ports, shards=shards, report=report)
        started = system.up(timeout=timeout)
    if started.admin.password is not None:
        # Whoever makes a system wants to use it: the first command after `up` need not ask for what `up` just said.
        settings = ClientSettings(url=started.url, ca=started.ca, session=places().session)
        with Client(settings) as client:
            client.log_in(started.admin.email, started.admin.password)
    seconds = time.monotonic() - started_at
    if as_json:
        output.print_json(
            {
                "url": started.url,
                "ca": str(started.ca),
                "docs": f"{started.url}/docs",
                "admin": {"email": started.admin.email, "password": started.admin.password},
                "already_running": started.already_running,
                "seconds": round(seconds, 2),
            }
        )
        return
    _welcome(started, seconds)


def down(*, as_json: Json = False) -> None:
    """Stop the system. Its data stays."""
    with local_errors():
        stopped = System(places().state).down()
    if as_json:
        output.print_json({"stopped": stopped})
    elif stopped:
        out.print(f"Stopped: {', '.join(stopped)}.")
    else:
        out.print("Nothing was running.")


def reset(
    *, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False, as_json: Json = False
) -> None:
    """Stop the system and forget all its data, certificates and passwords."""
    state = places().state
    if not yes and not typer.confirm(f"Forget everything in {state}?", err=True):
        raise CommandError("Nothing was done.")
    with local_errors():
        System(state).reset()
    if as_json:
        output.print_json({"reset": str(state)})
    else:
        out.print("Everything is forgotten. `almagest up` starts anew.")


def status(*, as_json: Json = False) -> None:
    """Show what runs. Ends with exit code 3 unless everything is up and ready."""
    with local_errors():
        system = System(places().state)
    rows = [_status(system, name) for name in system.daemons()]
    ready = all(row["ready"] for row in rows)
    if as_json:
        output.print_json({"ready": ready, "url": system.url, "processes": rows})
    else:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for title in ("PROCESS", "PID", "PORT", "STATE", "MEMORY", "UPTIME"):
            table.add_column(title, justify="right" if title in {"PID", "MEMORY"} else "left", no_wrap=True)
        for row in rows:
            state = "[green]ready[/]" if row["ready"] else ("[yellow]not ready[/]" if row["pid"] else "[red]down[/]")
            table.add_row(
                row["process"],
                str(row["pid"] or ""),
                " ".join(str(port) for port in row["ports"]),
                state,
                output.size(row["memory_bytes"]) if row["pid"] else "",
                output.duration(row["uptime_seconds"]) if row["pid"] else "",
            )
        out.print(table)
        for row in rows:
            if row["pid"] and not row["ready"]:
                err.print(f"{row['process']}: {escape(row['problem'])}")
    if not ready:
        raise typer.Exit(Exit.UNREACHABLE)


def logs(
    *,
    process: Annotated[
        str | None, typer.Argument(help="One of them; all if left out.", autocompletion=lambda: list(_PROCESSES))
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as more is logged, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many lines to begin with, of each.")] = 50,
    as_json: Json = False,
) -> None:
    """Show what the processes have logged."""
    if process is not None and process not in _PROCESSES:
        raise CommandError(
            f"There is no process {process!r}.", code=Exit.USAGE, hint=f"Name one of {', '.join(_PROCESSES)}."
        )
    where = places()
    names = [process] if process else [name for name in _PROCESSES if where.log(name).exists()]
    if not any(where.log(name).exists() for name in names):
        raise CommandError(f"There are no logs in {where.logs}.", hint="Has `almagest up` run here?")
    files = {name: where.log(name) for name in names}
    # Opened before the last lines are read, so that none falls between those and the ones that follow.
    followed = {name: _Followed(path) for name, path in files.items()} if follow else {}
    gathered = [
        line
        for name, path in files.items()
        for line in _last_lines(name, path, lines, end=followed[name].end if follow else None)
    ]
    for line in sorted(gathered, key=lambda line: line.time) if process is None else gathered:
        line.show(as_json=as_json, named=process is None)
    for line in _follow(followed):
        line.show(as_json=as_json, named=process is None)


class _Line:
    """A line of a log: of ours as JSON, of the servers as they please."""

    def __init__(self, process: str, text: str) -> None:
        self.process = process
        self.text = text
        self.fields: dict[str, Any] = {}
        self.time = ""
        if text.startswith("{"):
            with suppress(ValueError):
                self.fields = orjson.loads(text)
                self.time = str(self.fields.get("timestamp", ""))[:23]
        elif _DATED.match(text):
            self.time = text[:23].replace(" ", "T")

    def show(self, *, as_json: bool, named: bool) -> None:
        if as_json:
            output.print_json({"process": self.process} | (self.fields or {"event": self.text}))
            return
        prefix = f"[cyan]{self.process:>15}[/] " if named else ""
        if not self.fields:
            out.print(f"{prefix}{escape(self.text)}")
            return
        rest = dict(self.fields)
        moment, level, event = (str(rest.pop(name, "")) for name in ("timestamp", "level", "event"))
        rest.pop("service", None)
        trouble = rest.pop("exception", None)
        style = {"error": "bold red", "critical": "bold red", "warning": "yellow"}.get(level, "dim")
        said = " ".join(f"{name}={value}" for name, value in rest.items())
        out.print(
            f"{prefix}[dim]{escape(moment[11:23])}[/] [{style}]{level:7}[/] {escape(event)} [dim]{escape(said)}[/]"
        )
        if trouble:
            out.print(escape(str(trouble)))


def _last_lines(process: str, log: Path, count: int, *, end: int | None) -> list[_Line]:
    """The end of a log. A line that tells no time has that of the line before it, so that it stays behind it."""
    lines = [_Line(process, text) for text in tail(log, count, end=end).splitlines()] if count else []
    for before, line in pairwise(lines):
        line.time = line.time or before.time
    return lines


class _Followed:
    """A log that is read on as it is written, across the rotation at a restart."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None
        self._open()
        self.end = 0 if self._file is None else self._file.seek(0, os.SEEK_END)

    def lines(self) -> Iterator[str]:
        """The whole lines that came since the last call."""
        # Asked first: to a log that was put aside nothing is added, so what is read now is the rest of it.
        renewed = self._path.exists() and (
            self._file is None or self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino
        )
        if self._file is not None:
            place = self._file.tell()
            while (line := self._file.readline()).endswith("\n"):
                yield line.rstrip("\n")
                place = self._file.tell()
            # Half a line is read again when it is whole.
            self._file.seek(place)
        if renewed:
            self._open()

    def _open(self) -> None:
        if self._file is not None:
            self._file.close()
        try:
            self._file = self._path.open(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            self._file = None


def _follow(followed: Mapping[str, _Followed]) -> Iterator[_Line]:
    """Lines as they are written, for ever; none if nothing is followed."""
    while followed:
        idle = True
        for name, log in followed.items():
            for text in log.lines():
                idle = False
                yield _Line(name, text)
        if idle:
            time.sleep(_FOLLOW_SECONDS)


def _status(system: System, name: str) -> dict[str, Any]:
    process = system.daemons()[name].process()
    row: dict[str, Any] = {
        "process": name,
        "pid": None,
        "ports": [] if name in {POSTGRES, VALKEY, CERTIFICATES} else list(system.ports.of(name)),
        "ready": False,
        "problem": "it does not run",
        "memory_bytes": 0,
        "uptime_seconds": 0.0,
    }
    if process is None:
        return row
    try:
        family = [process, *process.children(recursive=True)]
        row["memory_bytes"] = sum(_memory(member) for member in family)
        row["uptime_seconds"] = round(time.time() - process.create_time(), 1)
        row["pid"] = process.pid
    except psutil.Error:
        return row
    if row["ports"]:
        probe = system.probe(name)
        row["ready"] = probe.ready()
        row["problem"] = "" if row["ready"] else probe.problem
    else:
        row["ready"], row["problem"] = True, ""
    return row


def _memory(process: psutil.Process) -> int:
    """What the process alone has in memory; what several share (Postgres' buffers) is divided among them where that
    is known.
    """
    try:
        full: Any = process.memory_full_info()
        return int(getattr(full, "pss", 0) or process.memory_info().rss)
    except psutil.Error:
        return 0


def _welcome(started: Started, seconds: float) -> None:
    if started.already_running:
        out.print(f"[green]Almagest is already up[/] at [bold]{started.url}[/]")
    else:
        out.print(f"[green]Almagest is up[/] at [bold]{started.url}[/] after {output.duration(seconds)}.")
    out.print(f"  API docs     {started.url}/docs")
    out.print(f"  Certificate  {started.ca}  (curl --cacert {_short(started.ca)} {started.url}/healthz)")
    if started.admin.password is not None:
        out.print(f"  Admin        {started.admin.email}")
        out.print(f"  Password     [bold]{escape(started.admin.password)}[/]  (shown this once: keep it)")
        out.print("You are logged in as the admin at this command line.")
    out.print("\nNext:")
    for command, purpose in (
        ("almagest demo", "import 9,581 vehicles"),
        ("almagest search toyota", "find some of them"),
        ("almagest token", "for curl: Authorization: Bearer ..."),
        ("almagest trace", "see what a request did"),
        ("almagest status", "what runs; logs, down, reset"),
    ):
        out.print(f"  {command:<24} [dim]{purpose}[/]")


def _short(path: Path) -> Path:
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path


@contextmanager
def local_errors() -> Generator[None]:
    """What this machine refuses, as a command tells it."""
    try:
        yield
    except LocalError as error:
        code = Exit.UNREACHABLE if isinstance(error, NotReadyError) else Exit.FAILURE
        raise CommandError(str(error), code=code) from error


@contextmanager
def _progress(*, quiet: bool) -> Generator[Report]:
    """Shows each process's way to being ready."""
    if quiet or not err.is_terminal:
        began = time.monotonic()

        def tell(name: str, state: str) -> None:
            if not quiet:
                stamp = dt.timedelta(seconds=round(time.monotonic() - began, 1))
                err.print(f"[dim]{str(stamp)[2:9]}[/] {name} {state}")

        yield tell
        return
    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(24),
        TextColumn("{task.fields[state]:<12}"),
        TimeElapsedColumn(),
    )
    steps = {"starting": 50, "migrating": 20, "ready": 100, "stopped": 0}
    with Progress(*columns, console=err, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(name: str, state: str) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=100, state=state)
            bars.update(tasks[name], completed=steps.get(state.partition(",")[0], 0), state=state)
            if state in {"ready", "stopped"}:
                bars.stop_task(tasks[name])

        yield show
