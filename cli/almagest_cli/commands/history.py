"""`history`, `diff`, `explain`: what became of a product, and where its values come from."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import orjson
import typer
from rich.markup import escape

from almagest_cli import output
from almagest_cli.client import Client
from almagest_cli.commands.catalog import (
    LARGEST_PAGE,
    AsOf,
    KnownAt,
    Limit,
    Product,
    key,
    moment,
    more,
    print_pages,
    time,
    value_text,
)
from almagest_cli.output import Json, out
from almagest_cli.settings import ClientSettings

_REVISION_OR_POSITION = re.compile(r"[0-9]{1,18}|[0-9]+:[0-9]+")


def history(
    *,
    product: Product,
    since: Annotated[str | None, typer.Option("--from", help="Only what was recorded at this time or later.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Only what was recorded at this time or before.")] = None,
    limit: Limit = 20,
    every: Annotated[bool, typer.Option("--all", help="Show all of it. With --json: one change a line.")] = False,
    as_json: Json = False,
) -> None:
    """Show who changed what about a product, when, and by which request."""
    bounds = {name: time(text) for name, text in (("from", since), ("to", until)) if text is not None}
    with Client(ClientSettings.read()) as client:
        pages = client.pages(
            f"/v1/products/{key(product)}/history", {**bounds, "page_size": LARGEST_PAGE if every else limit}
        )
        if as_json:
            print_pages(pages, every=every)
            return
        for page in pages:
            for change in page["items"]:
                _print(change)
            if not every:
                more(page)
                return


def diff(
    *,
    product: Product,
    before: Annotated[
        str, typer.Argument(metavar="FROM", help="A revision, a time or a position of the log.", show_default=False)
    ],
    after: Annotated[
        str | None, typer.Argument(metavar="[TO]", help="The same; the present if left out.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how two versions of a product differ."""
    versions = {"from": _version(before)} | ({} if after is None else {"to": _version(after)})
    with Client(ClientSettings.read()) as client:
        answer = client.get(f"/v1/products/{key(product)}/diff", versions).content
    if as_json:
        output.print_json(answer)
        return
    told = orjson.loads(answer)
    out.print(f"[dim]revision {told['from_revision']} -> revision {told['to_revision']}[/]")
    for line in _fields(told["fields"]):
        out.print(line)
    if not told["fields"]:
        out.print("No field differs.")


def explain(
    *,
    product: Product,
    field: Annotated[
        str, typer.Argument(help="The path of a field, such as price.amount, or price.", show_default=False)
    ],
    as_of: AsOf = None,
    known_at: KnownAt = None,
    as_json: Json = False,
) -> None:
    """Show where a value comes from: who set it, when and why, by which import and in which trace."""
    with Client(ClientSettings.read()) as client:
        answer = client.get(f"/v1/products/{key(product)}/explain", {"field": field, **moment(as_of, known_at)}).content
    if as_json:
        output.print_json(answer)
        return
    told = orjson.loads(answer)
    out.print(f"[bold]{escape(told['field'])}[/] is [bold]{escape(value_text(told['value']))}[/]", end="")
    out.print(f" [dim](before: {escape(value_text(told['before']))})[/]")
    set_by = told["set_by"]
    if set_by is None:
        out.print("It never had a value.")
        return
    out.print("\nset by")
    _print(_about(set_by, told["field"]))
    if told["scheduled_by"]:
        out.print("\nas was planned by")
        _print(_about(told["scheduled_by"], told["field"]))
    for hint in _hints(set_by):
        out.print(f"\n[dim]{escape(hint)}[/]", end="")
    out.print()


def _version(text: str) -> str:
    return text if _REVISION_OR_POSITION.fullmatch(text) else time(text)


def _about(change: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """A change without the other fields that it changed."""

    def concerns(one: Mapping[str, Any]) -> bool:
        return f"{one['field']}.".startswith(f"{field}.")

    return {**change, **{name: [one for one in change[name] if concerns(one)] for name in ("fields", "facts")}}


def _hints(change: Mapping[str, Any]) -> Iterator[str]:
    if change["job_id"]:
        yield f"The import: almagest jobs show {change['job_id']}"
    if change["trace_id"]:
        yield f"The request: almagest trace {change['trace_id']}"


def _print(change: Mapping[str, Any]) -> None:
    about = [f"by {change['actor']}"]
    if change.get("job_id"):
        about.append(f"job {change['job_id']} line {change['import_line']}")
    if change.get("reason"):
        about.append(f"because {change['reason']}")
    if change.get("trace_id"):
        about.append(f"trace {change['trace_id']}")
    out.print(
        f"[bold]{change['revision']:>4}[/] {change['recorded_at']} [bold]{change['type']}[/]"
        f" [dim]at {change.get('position', '')}[/]"
    )
    out.print(f"     [dim]{escape(', '.join(about))}[/]")
    for line in _fields(change.get("fields") or ()):
        out.print(f"     {line}")
    if change.get("effective_at"):
        until = f" until {change['effective_until']}" if change["effective_until"] else ""
        out.print(f"     effective {change['effective_at']}{until}")
    for fact in change.get("facts") or ():
        out.print(f"     {escape(fact['field'])}: {escape(value_text(fact['value']))}")
    if change.get("facts_withheld"):
        out.print("     [dim]what is planned is shown to those who may change the catalog[/]")


def _fields(fields: Any) -> Iterator[str]:
    for field in fields:
        before, after = value_text(field["before"]), value_text(field["after"])
        yield f"{escape(field['field'])}: {escape(before)} -> {escape(after)}"
