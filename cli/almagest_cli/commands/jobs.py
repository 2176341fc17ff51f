"""`import`, `demo` and `jobs`: work that takes a while."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO
from urllib.parse import quote

import orjson
import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from almagest_cli import demo as demos
from almagest_cli import output
from almagest_cli.client import Client
from almagest_cli.output import CommandError, Exit, Json, err, out
from almagest_cli.settings import ClientSettings, places

_CHUNK = 256 * 1024
_TYPES = {"ndjson": "application/x-ndjson", "csv": "text/csv"}
_FORMATS = {".ndjson": "ndjson", ".jsonl": "ndjson", ".csv": "csv"}
_SHOWN_REFUSED = 10

app = typer.Typer(help="Look after jobs: imports and other work that takes a while.", invoke_without_command=True)

JobId = Annotated[str, typer.Argument(help="The job's id.", show_default=False)]


def import_file(
    *,
    file: Annotated[Path, typer.Argument(help="The file, or - for standard input.", show_default=False)],
    file_format: Annotated[
        str | None, typer.Option("--format", help="ndjson or csv.  [default: by the file's name]")
    ] = None,
    on_error: Annotated[str, typer.Option(help="At a row that is refused: stop, or skip it and go on.")] = "stop",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, change nothing.")] = False,
    reason: Annotated[str, typer.Option(help="Why, for the history of each product.")] = "",
    watch: Annotated[bool, typer.Option("--watch/--no-watch", help="Wait for the import's end.")] = True,
    as_json: Json = False,
) -> None:
    """Import products from an NDJSON or CSV file. Importing the same file again changes nothing.

    Ends with exit code 5 if rows were refused, and shows the first of them.
    """
    kind = file_format or _FORMATS.get(file.suffix.lower())
    if kind not in _TYPES:
        raise CommandError(f"{file} may be NDJSON or CSV.", code=Exit.USAGE, hint="Say which: --format ndjson or csv.")
    if on_error not in {"stop", "skip"}:
        raise CommandError(f"--on-error is stop or skip, not {on_error!r}.", code=Exit.USAGE)
    options: dict[str, str | int | bool] = {"format": kind, "on_error": on_error, "name": file.name[:200]}
    if dry_run:
        options["dry_run"] = "true"
    if reason:
        options["reason"] = reason
    _import(file, options, watch=watch, as_json=as_json)


def demo(
    *,
    retail: Annotated[
        bool, typer.Option("--retail", help="The 92,331 products of a grocery chain instead of vehicles.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch/--no-watch", help="Wait for the import's end.")] = True,
    as_json: Json = False,
) -> None:
    """Import a demo catalog: 9,581 vehicles of 1992 to 2020, each with a price."""
    name = "retail" if retail else "vehicles"
    path = places().demo / f"{name}.ndjson"
    rows = demos.write_retail(path) if retail else demos.write_vehicles(path)
    output.note(f"{rows:,} rows are in {path}.")
    options: dict[str, str | int | bool] = {
        "format": "ndjson",
        "on_error": "skip",
        "name": f"demo {name}",
        "reason": "demo catalog",
    }
    _import(path, options, watch=watch, as_json=as_json)


@app.callback()
def jobs(context: typer.Context) -> None:
    """Look after jobs: imports and other work that takes a while."""
    if context.invoked_subcommand is None:
        list_jobs()


@app.command("list")
def list_jobs(
    *,
    state: Annotated[str | None, typer.Option(help="queued, running, succeeded, failed or cancelled.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=200, help="How many to show.")] = 20,
    as_json: Json = False,
) -> None:
    """List jobs, latest first."""
    with Client(ClientSettings.read()) as client:
        page = client.get("/v1/jobs", {"page_size": limit} | ({"state": state} if state else {})).content
    if as_json:
        output.print_json(page)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("JOB", "NAME", "STATE", "ROWS", "REFUSED", "CREATED"):
        table.add_column(title, justify="right" if title in {"ROWS", "REFUSED"} else "left", no_wrap=title != "NAME")
    for job in orjson.loads(page)["items"]:
        progress = job["progress"]
        rows, refused = f"{progress['rows_done']:,}", f"{progress['rows_refused']:,}"
        name = escape(job["name"] or job["type"])
        table.add_row(job["job_id"], name, job["state"], rows, refused, output.ago(job["created_at"]))
    out.print(table)


@app.command()
def show(*, job_id: JobId, as_json: Json = False) -> None:
    """Show one job."""
    with Client(ClientSettings.read()) as client:
        job = client.get(f"/v1/jobs/{quote(job_id)}").content
    if as_json:
        output.print_json(job)
    else:
        _print_job(orjson.loads(job))


@app.command()
def watch(*, job_id: JobId, as_json: Json = False) -> None:
    """Watch a job until its end. With --json: a line at each change."""
    with Client(ClientSettings.read()) as client:
        _finish(client, _watch(client, job_id, as_json=as_json), as_json=as_json)


@app.command()
def cancel(*, job_id: JobId, as_json: Json = False) -> None:
    """Cancel a job. What it has done stays done."""
    with Client(ClientSettings.read()) as client:
        job = client.post(f"/v1/jobs/{quote(job_id)}:cancel").content
    if as_json:
        output.print_json(job)
    else:
        _print_job(orjson.loads(job))


@app.command()
def refused(*, job_id: JobId, as_json: Json = False) -> None:
    """Show the rows that an import refused, and why. With --json: one row a line."""
    with Client(ClientSettings.read()) as client:
        for page in client.pages(f"/v1/jobs/{quote(job_id)}/refused", {"page_size": 200}):
            for row in page["items"]:
                if as_json:
                    output.print_json(row)
                else:
                    _print_refused(row)


def _import(file: Path, options: Mapping[str, str | int | bool], *, watch: bool, as_json: bool) -> None:
    try:
        source: BinaryIO = sys.stdin.buffer if str(file) == "-" else file.open("rb")
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}") from None
    total = None if str(file) == "-" else file.stat().st_size
    headers = {"Content-Type": _TYPES[str(options["format"])]}
    if total is not None:
        headers["Content-Length"] = str(total)
    with source, Client(ClientSettings.read()) as client:
        job = orjson.loads(client.upload("/v1/imports", options, _read(source, total, quiet=as_json), headers).content)
        if not watch:
            if as_json:
                output.print_json(job)
            else:
                out.print(f"Job {job['job_id']} is {job['state']}. Watch it: almagest jobs watch {job['job_id']}")
            return
        _finish(client, _watch(client, job["job_id"], as_json=False, quiet=as_json), as_json=as_json)


def _read(source: BinaryIO, total: int | None, *, quiet: bool) -> Iterator[bytes]:
    columns = (TextColumn("Uploading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal) as bar:
        task = bar.add_task("", total=total)
        while chunk := source.read(_CHUNK):
            yield chunk
            bar.advance(task, len(chunk))


def _watch(client: Client, job_id: str, *, as_json: bool, quiet: bool = False) -> Mapping[str, Any]:
    """Follow a job to its end, and answer it as it is then."""
    columns = (
        TextColumn("Importing"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]:,} rows, {task.fields[refused]:,} refused"),
        TimeRemainingColumn(),
    )
    job: Mapping[str, Any] = {}
    with Progress(*columns, console=err, transient=True, disable=as_json or quiet or not err.is_terminal) as bar:
        task = bar.add_task("", total=None, rows=0, refused=0)
        for job in client.watch_job(job_id):
            if as_json:
                output.print_json(job)
            progress = job["progress"]
            bar.update(
                task,
                total=progress["bytes_total"] or None,
                completed=progress["bytes_done"],
                rows=progress["rows_done"],
                refused=progress["rows_refused"],
            )
    return job


def _finish(client: Client, job: Mapping[str, Any], *, as_json: bool) -> None:
    """Tell how a job ended; a command that waited for it ends as the job did."""
    if job.get("consistency_tokens"):
        _await_visible(client, job["consistency_tokens"])
    if as_json:
        output.print_json(job)
    else:
        _print_job(job)
    count = job["progress"]["rows_refused"]
    if count and not as_json:
        rows = client.get(f"/v1/jobs/{quote(job['job_id'])}/refused", {"page_size": _SHOWN_REFUSED}).json()["items"]
        for row in rows:
            _print_refused(row)
        if count > len(rows):
            err.print(f"[dim]All {count:,} of them: almagest jobs refused {job['job_id']}[/]")
    if count:
        raise typer.Exit(Exit.REFUSED)
    if job["state"] != "succeeded":
        raise typer.Exit(Exit.FAILURE)


def _await_visible(client: Client, tokens: list[str]) -> None:
    """Return when reads show what the job wrote, so that the next command sees it; do not insist."""
    try:
        client.get("/v1/products", {"page_size": 1}, consistency=tokens)
    except CommandError as error:
        err.print(f"[dim]Reads do not show everything yet: {escape(str(error))}[/]")


def _print_job(job: Mapping[str, Any]) -> None:
    progress = job["progress"]
    style = {"succeeded": "green", "failed": "red", "cancelled": "yellow"}.get(job["state"], "bold")
    name = f" {escape(job['name'])}" if job["name"] else ""
    dry = " (dry run: nothing was changed)" if job["options"].get("dry_run") else ""
    out.print(f"Job {job['job_id']}{name}: [{style}]{job['state']}[/]{dry}")
    counts = ", ".join(
        f"{progress[f'rows_{what}']:,} {what}" for what in ("created", "changed", "unchanged", "refused")
    )
    out.print(f"  {progress['rows_done']:,} rows: {counts}")
    if job.get("error"):
        problem = job["error"]
        out.print(f"  [red]{escape(str(problem.get('message') or problem))}[/]")


def _print_refused(row: Mapping[str, Any]) -> None:
    problem = row["problem"]
    sku = f" ({escape(row['sku'])})" if row.get("sku") else ""
    errors = [f"{error['field']}: {error['message']}" for error in problem.get("errors") or ()]
    for text in errors or [problem["message"]]:
        out.print(f"  line {row['line']}{sku}: {escape(text)}")
