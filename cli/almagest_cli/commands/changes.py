"""`changes`: what happens in the catalog, as it happens."""

from collections.abc import Mapping
from typing import Annotated, Any

import orjson
import typer
from rich.markup import escape

from almagest_cli import output
from almagest_cli.client import Client
from almagest_cli.output import Json, err, out
from almagest_cli.settings import ClientSettings

_LONGEST_VALUE = 60

Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is to come, until Ctrl-C.")]
Kind = Annotated[list[str] | None, typer.Option(help="general, vehicle, car or truck. May be given again.")]
Category = Annotated[list[str] | None, typer.Option(help="A category, with those below it. May be given again.")]
Type = Annotated[list[str] | None, typer.Option("--type", help="What happened, such as PriceSet. May be given again.")]
After = Annotated[
    str | None,
    typer.Option(help="start, now, or the cursor of a change. With --follow from now on, else from the start."),
]


def changes(
    *,
    follow: Follow = False,
    kind: Kind = None,
    category: Category = None,
    type_: Type = None,
    after: After = None,
    as_json: Json = False,
) -> None:
    """Show what has changed, in order; with --follow, as it changes."""
    wanted: dict[str, Any] = {
        "after": after or ("now" if follow else "start"),
        "follow": "true" if follow else "false",
        "kind": kind or [],
        "category": category or [],
        "type": type_ or [],
    }
    cursor = None
    with Client(ClientSettings.read()) as client:
        try:
            for change in client.changes(wanted):
                cursor = change["cursor"]
                if as_json:
                    output.print_json(change)
                else:
                    _print(change)
        except KeyboardInterrupt:
            if cursor is not None and not as_json:
                err.print(f"[dim]Go on from here: almagest changes --follow --after {cursor}[/]")


def _print(change: Mapping[str, Any]) -> None:
    where = escape(" ".join(part for part in (change["kind"], change["category"]) if part))
    out.print(
        f"{change['recorded_at'][:23]} [bold]{change['type']}[/] {escape(change['sku'])} "
        f"[dim]revision {change['revision']} {where}[/]"
    )
    # Of a new product everything is new.
    for field in change["fields"] if change["revision"] else ():
        out.print(f"    {escape(field['field'])}: {_value(field['before'])} -> {_value(field['after'])}")
    if change["reason"]:
        out.print(f"    [dim]because {escape(change['reason'])}[/]")


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return escape(text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…")
