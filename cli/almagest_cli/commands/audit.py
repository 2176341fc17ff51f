"""`audit`: what was done with people, their sessions and keys."""

from typing import Annotated, Any

import orjson
import typer
from rich.markup import escape
from rich.table import Table

from almagest_cli.client import Client
from almagest_cli.commands.catalog import more, print_pages
from almagest_cli.output import Json, out
from almagest_cli.settings import ClientSettings

_LARGEST_PAGE = 500

Limit = Annotated[int, typer.Option(min=1, max=_LARGEST_PAGE, help="How many at most.")]


def audit(
    *,
    subject: Annotated[str | None, typer.Option(help="Whom it is about: the id of a user.")] = None,
    type_: Annotated[
        list[str] | None, typer.Option("--type", help="What was done, such as LogInFailed. May be given again.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="Not before this time, such as 2026-11-23T09:00:00Z.")] = None,
    until: Annotated[str | None, typer.Option(help="Before this time.")] = None,
    limit: Limit = 50,
    every: Annotated[bool, typer.Option("--all", help="All, not only the latest.")] = False,
    as_json: Json = False,
) -> None:
    """Show who did what with people, sessions and keys, the latest first. For admins."""
    wanted: dict[str, Any] = {"page_size": _LARGEST_PAGE if every else limit}
    named = {"subject": subject, "type": type_, "since": since, "until": until}
    wanted |= {name: value for name, value in named.items() if value}
    with Client(ClientSettings.read()) as client:
        pages = client.pages("/v1/audit", wanted)
        if as_json:
            print_pages(pages, every=every)
            return
        for page in pages:
            out.print(_table(page["items"]) if page["items"] else "Nothing was done.")
            if not every:
                more(page)
                return


def _table(events: list[dict[str, Any]]) -> Table:
    table = Table("At", "What", "About", "By", "From", "Details", box=None, header_style="bold", pad_edge=False)
    for event in events:
        details = orjson.dumps(event["details"]).decode() if event["details"] else ""
        by = event["actor_id"] or event["workload"] or "an operator"
        address = event["origin"].get("address", "")
        cells = (event["at"][:19], event["type"], event["subject_id"], by, address, details)
        table.add_row(*(escape(cell) for cell in cells))
    return table
