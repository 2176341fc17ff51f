"""`projections`: looking after what reads are answered from, as its operator."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final
from urllib.parse import quote

import orjson
import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from almagest_cli import output
from almagest_cli.client import Client
from almagest_cli.output import CommandError, Exit, Json, err, out
from almagest_cli.settings import ClientSettings

_LOOK_SECONDS: Final = 0.5
_PAGE: Final = 200

app = typer.Typer(
    help="Look after what reads are answered from: parked events, rebuilds, drift. For admins.", no_args_is_help=True
)

Name = Annotated[str, typer.Option("--projection", "-p", help="The projection.")]
Number = Annotated[int, typer.Argument(help="The generation's number.", min=1, show_default=False)]
ParkedId = Annotated[str, typer.Argument(help="The parked event's id.", show_default=False)]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=_PAGE, help="How many to show.")]
_PRODUCTS: Final = "products"


@app.command()
def status(*, name: Name = _PRODUCTS, as_json: Json = False) -> None:
    """Show the generations of a projection: how far they are, what they hold, how they compare."""
    with Client(ClientSettings.read()) as client:
        shown = client.get(_path(name)).content
    if as_json:
        output.print_json(shown)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("SHARD", "GENERATION", "STATE", "BEHIND", "SECONDS", "HELD", "DRIFTED", "COMPARED WITH THE ONE READ"):
        table.add_column(title, justify="right" if title in {"BEHIND", "SECONDS", "HELD", "DRIFTED"} else "left")
    for one in orjson.loads(shown)["generations"]:
        progress: Sequence[Mapping[str, Any]] = one["progress"]
        errors = [text for part in progress if (text := part["error"])]
        table.add_row(
            str(one["read_shard"]),
            str(one["generation"]),
            one["state"],
            f"{sum(part['lag_events'] for part in progress):,}",
            f"{max((part['lag_seconds'] for part in progress), default=0):.1f}",
            f"{one['held_streams']:,}",
            f"{one['drifted_products']:,}",
            escape(errors[0]) if errors else _verdict(one["comparison"]) if one["state"] == "ready" else "",
        )
    out.print(table)


@app.command()
def parked(*, name: Name = _PRODUCTS, limit: Limit = 20, as_json: Json = False) -> None:
    """List the events that could not be applied."""
    with Client(ClientSettings.read()) as client:
        page = client.get(f"{_path(name)}/parked", {"page_size": limit}).content
    if as_json:
        output.print_json(page)
        return
    items = orjson.loads(page)["items"]
    for one in items:
        _print_parked(one)
    if not items:
        out.print("Nothing is parked.")


@app.command()
def retry(
    *,
    parked_id: Annotated[str | None, typer.Argument(help="The parked event's id; all if not said.")] = None,
    name: Name = _PRODUCTS,
    as_json: Json = False,
) -> None:
    """Try parked events again, and what is held behind them. Ends with exit code 5 if some still cannot be applied."""
    place = f"parked/{quote(parked_id)}:retry" if parked_id else "parked:retry"
    with Client(ClientSettings.read()) as client:
        answer = client.post(f"{_path(name)}/{place}").content
    outcome = orjson.loads(answer)
    if as_json:
        output.print_json(answer)
    else:
        out.print(f"{outcome['applied']:,} products go on, {outcome['still_parked']:,} still cannot.")
        for one in outcome["parked"]:
            _print_parked(one)
    if outcome["still_parked"]:
        raise typer.Exit(Exit.REFUSED)


@app.command()
def skip(
    *,
    parked_id: ParkedId,
    reason: Annotated[str, typer.Option(help="Why, for those who come after.", show_default=False)],
    name: Name = _PRODUCTS,
    as_json: Json = False,
) -> None:
    """Leave a parked event out for good, and go on with what is held behind it."""
    with Client(ClientSettings.read()) as client:
        answer = client.post(f"{_path(name)}/parked/{quote(parked_id)}:skip", json={"reason": reason}).content
    if as_json:
        output.print_json(answer)
    elif (following := orjson.loads(answer)["parked"]) is None:
        out.print("It is left out; the product goes on.")
    else:
        out.print("It is left out; the product stands still before the next one:")
        _print_parked(following)


@app.command()
def rebuild(
    *,
    name: Name = _PRODUCTS,
    watch: Annotated[bool, typer.Option("--watch/--no-watch", help="Wait until it is ready and compared.")] = True,
    as_json: Json = False,
) -> None:
    """Fill a new generation from the log, beside the one that is read. Reads and writes go on."""
    with Client(ClientSettings.read()) as client:
        begun = orjson.loads(client.post(f"{_path(name)}:rebuild").content)
        generations = _watch(client, name, begun["generation"], quiet=as_json) if watch else ()
    if as_json:
        output.print_json(begun | {"generations": list(generations)})
        return
    number = begun["generation"]
    out.print(f"Generation {number} {'is begun' if not watch else 'is ready'}.")
    for one in generations:
        out.print(f"shard {one['read_shard']}: {_verdict(one['comparison'])}")
    if watch:
        err.print(f"[dim]almagest projections preview {number} shows what differs, switch {number} lets it be read.[/]")


@app.command()
def preview(
    *,
    generation: Number,
    name: Name = _PRODUCTS,
    anew: Annotated[bool, typer.Option("--anew", help="Compare again first.")] = False,
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Show what would change if a generation were read: counts by field, and samples."""
    place = f"{_path(name)}/generations/{generation}"
    with Client(ClientSettings.read()) as client:
        if anew:
            client.post(f"{place}:compare")
            _watch(client, name, generation, quiet=as_json)
        page = client.get(f"{place}/differences", {"page_size": limit}).content
    if as_json:
        output.print_json(page)
        return
    shown = orjson.loads(page)
    out.print(_verdict(shown["comparison"]))
    if shown["comparison"]:
        for field, rows in sorted(shown["comparison"]["fields"].items(), key=lambda item: -item[1]):
            out.print(f"  {rows:>9,}  {escape(field)}")
    for one in shown["items"]:
        what = one["kind"] if one["field"] is None else f"{one['field']}: {one['before']} -> {one['after']}"
        out.print(f"[bold]{one['key']}[/] [dim]revision {one['revision']}[/] {escape(what)}")


@app.command()
def switch(
    *,
    generation: Number,
    accept: Annotated[list[str] | None, typer.Option(help="A field that is meant to differ. May be repeated.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Whatever the comparison says.")] = False,
    name: Name = _PRODUCTS,
    as_json: Json = False,
) -> None:
    """Let reads go to a generation that was filled and compared."""
    with Client(ClientSettings.read()) as client:
        _switch(client, name, generation, {"accepted_fields": accept or [], "force": force}, as_json=as_json)


@app.command()
def rollback(*, name: Name = _PRODUCTS, as_json: Json = False) -> None:
    """Let reads go back to the generation before, which was kept up to date."""
    with Client(ClientSettings.read()) as client:
        generations = orjson.loads(client.get(_path(name)).content)["generations"]
        serving = max((one["generation"] for one in generations if one["state"] == "serving"), default=0)
        older = [one["generation"] for one in generations if one["generation"] < serving]
        if not older:
            raise CommandError("There is no generation to go back to.", hint="It was dropped, or there never was one.")
        _switch(client, name, max(older), {}, as_json=as_json)


@app.command()
def drop(*, generation: Number, name: Name = _PRODUCTS, as_json: Json = False) -> None:
    """Drop a generation that is not read. Of the one before, that ends the way back."""
    with Client(ClientSettings.read()) as client:
        client.delete(f"{_path(name)}/generations/{generation}")
    if as_json:
        output.print_json({"dropped": generation})
    else:
        out.print(f"Generation {generation} is gone.")


@app.command()
def drift(*, name: Name = _PRODUCTS, limit: Limit = 20, as_json: Json = False) -> None:
    """List the products whose rows are not what the log says. Ends with exit code 1 if there are any."""
    with Client(ClientSettings.read()) as client:
        page = client.get(f"{_path(name)}/drift", {"page_size": limit}).content
    items = orjson.loads(page)["items"]
    if as_json:
        output.print_json(page)
    else:
        for one in items:
            fields = f" in {', '.join(one['fields'])}" if one["fields"] else ""
            out.print(f"[bold]{one['product_id']}[/] {one['kind']}{escape(fields)}, {output.ago(one['found_at'])}")
        out.print(f"{len(items)} have drifted." if items else "None has been found.")
    if items:
        raise typer.Exit(Exit.FAILURE)


@app.command()
def repair(
    *,
    product_id: Annotated[str, typer.Argument(help="The product's id.", show_default=False)],
    forget_skipped: Annotated[
        bool, typer.Option("--forget-skipped", help="Apply the events, too, that were left out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the rows of one product anew, from its events."""
    with Client(ClientSettings.read()) as client:
        asked = {"product_id": product_id, "forget_skipped": forget_skipped}
        answer = client.post(f"{_path(_PRODUCTS)}:repair", json=asked).content
    if as_json:
        output.print_json(answer)
        return
    outcome = orjson.loads(answer)
    now = "has no row" if outcome["revision"] is None else f"is at revision {outcome['revision']}"
    out.print(f"The product {now}; {outcome['changed']} generations had something else.")


def _path(name: str) -> str:
    return f"/v1/projections/{quote(name, safe='')}"


def _switch(client: Client, name: str, generation: int, how: Mapping[str, Any], *, as_json: bool) -> None:
    answer = client.post(f"{_path(name)}/generations/{generation}:switch", json=dict(how)).content
    if as_json:
        output.print_json(answer)
    else:
        out.print(f"Reads go to generation {generation}; before, they went to {orjson.loads(answer)['previous']}.")


def _watch(client: Client, name: str, generation: int, *, quiet: bool) -> Sequence[Mapping[str, Any]]:
    """Follow a generation until it has been filled and compared in every shard."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal) as bars:
        tasks: dict[int, Any] = {}
        for shown in _looks(client, name):
            mine = [one for one in shown if one["generation"] == generation]
            for one in mine:
                task = tasks.setdefault(one["read_shard"], bars.add_task("", total=None))
                done, total = (sum(part[field] for part in one["progress"]) for field in ("checkpoint", "head"))
                filled = "filling" if done < total else "indexing"
                doing = filled if one["state"] == "filling" else "comparing" if not one["comparison"] else "ready"
                bars.update(task, description=f"shard {one['read_shard']} {doing}", completed=done, total=total or None)
            if not mine:
                raise CommandError(f"There is no generation {generation} any more.")
            if all(one["comparison"] for one in mine):
                return mine
    return ()


def _looks(client: Client, name: str) -> Iterator[Sequence[Mapping[str, Any]]]:
    while True:
        yield orjson.loads(client.get(_path(name)).content)["generations"]
        time.sleep(_LOOK_SECONDS)


def _verdict(comparison: Mapping[str, Any] | None) -> str:
    if comparison is None:
        return "not compared yet"
    found = [f"{comparison[kind]:,} {kind}" for kind in ("missing", "extra", "different") if comparison[kind]]
    return f"{comparison['compared']:,} rows compared: {', '.join(found) or 'all the same'}"


def _print_parked(one: Mapping[str, Any]) -> None:
    out.print(
        f"[bold]{one['parked_id']}[/] {escape(one['type'])}, revision {one['revision']} of {one['product_id']},"
        f" {output.ago(one['since'])}"
    )
    held = f", {one['held_events']:,} more are held behind it" if one["held_events"] else ""
    tried = "once" if one["attempts"] == 1 else f"{one['attempts']} times"
    out.print(f"     [dim]{escape(one['error'])}; tried {tried}{held}[/]")
