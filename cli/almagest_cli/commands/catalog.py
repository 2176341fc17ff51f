"""`get`, `list`, `search`: reading the catalog, of today or of another day."""

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any, cast
from urllib.parse import quote

import orjson
import typer
from rich.markup import escape
from rich.table import Table

from almagest_cli import output
from almagest_cli.client import Client
from almagest_cli.output import CommandError, Exit, Json, err, out
from almagest_cli.settings import ClientSettings

LARGEST_PAGE = 200
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_POSITION = re.compile(r"[0-9]+:[0-9]+")

Product = Annotated[str, typer.Argument(help="The product's id or SKU.", show_default=False)]
AsOf = Annotated[
    str | None,
    typer.Option(
        help="Look back, or ahead: a time, such as 2026-11-27 or 2026-11-27T09:30 (here, unless it says where), or a "
        "position of the log, such as 0:1234, as the history shows them."
    ),
]
KnownAt = Annotated[str | None, typer.Option(help="With a time in --as-of: only what was recorded by then counts.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=LARGEST_PAGE, help="How many to show.")]
All = Annotated[bool, typer.Option("--all", help="Show all of them. With --json: one product a line.")]


def key(product: str) -> str:
    """The path segment for a product id, or for a SKU with or without the API's `sku:` before it."""
    return product.lower() if _UUID.fullmatch(product) else f"sku:{quote(product.removeprefix('sku:'), safe='')}"


def time(text: str) -> str:
    """A time as people write it, as the API takes it: without an offset it is the time here; a day begins at midnight.

    Raises:
        CommandError: It is none.
    """
    try:
        read = datetime.fromisoformat(text)
        return (read if read.tzinfo else read.astimezone()).isoformat()
    except (ValueError, OverflowError):
        raise CommandError(
            f"{text!r} is no time.", code=Exit.USAGE, hint="Write 2026-11-27, 2026-11-27T09:30 or 2026-11-27T09:30Z."
        ) from None


def moment(as_of: str | None, known_at: str | None) -> dict[str, str]:
    """The parameters for looking back, or ahead."""
    if as_of is None:
        return {} if known_at is None else {"known_at": time(known_at)}
    asked = {"as_of": as_of if _POSITION.fullmatch(as_of) else time(as_of)}
    return asked if known_at is None else asked | {"known_at": time(known_at)}


def _filter_options(
    *,
    kind: Annotated[str | None, typer.Option(help="general, car or truck.")] = None,
    make: Annotated[str | None, typer.Option(help="The vehicle's make.")] = None,
    model: Annotated[str | None, typer.Option(help="The vehicle's model.")] = None,
    model_year_from: Annotated[int | None, typer.Option("--year-from", help="The first model year.")] = None,
    model_year_to: Annotated[int | None, typer.Option("--year-to", help="The last model year.")] = None,
    category: Annotated[str | None, typer.Option(help="The category, such as vehicles/suv.")] = None,
    price_from: Annotated[str | None, typer.Option(help="The lowest price. Needs --currency.")] = None,
    price_to: Annotated[str | None, typer.Option(help="The highest price. Needs --currency.")] = None,
    currency: Annotated[str | None, typer.Option(help="The currency of the prices, such as USD.")] = None,
    status: Annotated[str | None, typer.Option(help="draft, published or discontinued.")] = None,
    sort: Annotated[
        str | None, typer.Option(help="name, price, model_year or updated; with - in front: downwards.")
    ] = None,
) -> None:
    """What lists and searches filter by, named as the API names it."""


def _filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a filter. It gets those that were given as `filters`."""
    options = inspect.signature(_filter_options).parameters
    own = [one for one in inspect.signature(command).parameters.values() if one.name != "filters"]

    @functools.wraps(command)
    def with_options(**given: Any) -> None:
        filters = {name: given.pop(name) for name in options}
        command(**given, filters={name: value for name, value in filters.items() if value is not None})

    signature = inspect.Signature([*(one for one in own if one.name == "text"), *options.values(),
                                   *(one for one in own if one.name != "text")])  # fmt: skip
    vars(with_options).update(__signature__=signature)
    with_options.__annotations__ = {one.name: one.annotation for one in signature.parameters.values()}
    return with_options


def get(*, product: Product, as_of: AsOf = None, known_at: KnownAt = None, as_json: Json = False) -> None:
    """Show one product, as it is, or with --as-of as it was or is planned to be."""
    with Client(ClientSettings.read()) as client:
        document = client.get(f"/v1/products/{key(product)}", moment(as_of, known_at)).content
    if as_json:
        output.print_json(document)
        return
    shown = orjson.loads(document)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, value in _flat(shown):
        table.add_row(name, escape(value))
    out.print(f"[bold]{escape(shown['name'])}[/]")
    out.print(table)


@_filtered
def list_products(
    *,
    filters: Mapping[str, str | int],
    as_of: AsOf = None,
    known_at: KnownAt = None,
    limit: Limit = 20,
    every: All = False,
    as_json: Json = False,
) -> None:
    """List products, as they are, or with --as-of as they were or are planned to be."""
    wanted = {**filters, **moment(as_of, known_at)}
    _show("/v1/products", wanted, limit=limit, every=every, as_json=as_json)


@_filtered
def search(
    *,
    text: Annotated[str, typer.Argument(help="What to look for.", show_default=False)],
    filters: Mapping[str, str | int],
    as_of: AsOf = None,
    known_at: KnownAt = None,
    limit: Limit = 20,
    every: All = False,
    as_json: Json = False,
) -> None:
    """Search products by their words, as they are, or with --as-of as they were or are planned to be."""
    wanted = {"text": text, **filters, **moment(as_of, known_at)}
    _show("/v1/products:search", wanted, limit=limit, every=every, as_json=as_json)


def _show(path: str, filters: Mapping[str, str | int], *, limit: int, every: bool, as_json: bool) -> None:
    with Client(ClientSettings.read()) as client:
        pages = client.pages(path, {**filters, "page_size": LARGEST_PAGE if every else limit})
        if as_json:
            print_pages(pages, every=every)
            return
        for page in pages:
            out.print(_table(page["items"]) if page["items"] else "No products.")
            if not every:
                more(page)
                return


def print_pages(pages: Iterator[Mapping[str, Any]], *, every: bool) -> None:
    """Print a page as it is, or the items of all pages, one a line."""
    if not every:
        output.print_json(next(pages))
        return
    for page in pages:
        for item in page["items"]:
            output.print_json(item)


def more(page: Mapping[str, Any]) -> None:
    """Say that there is another page, if there is."""
    if page.get("next_cursor"):
        err.print("[dim]There are more: --all shows all, --limit more at once.[/]")


def _table(products: list[Mapping[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("SKU", no_wrap=True)
    table.add_column("NAME")
    table.add_column("KIND")
    table.add_column("CATEGORY")
    table.add_column("PRICE", justify="right", no_wrap=True)
    table.add_column("STATUS")
    for product in products:
        cells = (product["sku"], product["name"], product["kind"], product["category"] or "")
        table.add_row(*(escape(cell) for cell in cells), output.money(product["price"]), product["status"])
    return table


def value_text(value: Any) -> str:
    """A value of a document for people."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in document.items():
        if name == "price":
            yield f"{prefix}{name}", output.money(value)
        elif isinstance(value, dict):
            yield from _flat(cast("Mapping[str, Any]", value), f"{prefix}{name}.")
        elif isinstance(value, list):
            yield f"{prefix}{name}", ", ".join(value_text(one) for one in cast("list[Any]", value))
        elif value is not None:
            yield f"{prefix}{name}", value_text(value)
