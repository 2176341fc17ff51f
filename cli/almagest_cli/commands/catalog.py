"""`get`, `list`, `search`, `history`: reading the catalog."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, cast
from urllib.parse import quote

import orjson
import typer
from rich.markup import escape
from rich.table import Table

from almagest_cli import output
from almagest_cli.client import Client
from almagest_cli.output import Json, err, out
from almagest_cli.settings import ClientSettings

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_LARGEST_PAGE = 200

Product = Annotated[str, typer.Argument(help="The product's id or SKU.", show_default=False)]
Kind = Annotated[str | None, typer.Option(help="general, car or truck.")]
Make = Annotated[str | None, typer.Option(help="The vehicle's make.")]
Model = Annotated[str | None, typer.Option(help="The vehicle's model.")]
YearFrom = Annotated[int | None, typer.Option(help="The first model year.")]
YearTo = Annotated[int | None, typer.Option(help="The last model year.")]
Category = Annotated[str | None, typer.Option(help="The category, such as vehicles/suv.")]
PriceFrom = Annotated[str | None, typer.Option(help="The lowest price. Needs --currency.")]
PriceTo = Annotated[str | None, typer.Option(help="The highest price. Needs --currency.")]
Currency = Annotated[str | None, typer.Option(help="The currency of the prices, such as USD.")]
Status = Annotated[str | None, typer.Option(help="draft, published or discontinued.")]
Sort = Annotated[str | None, typer.Option(help="name, price, model_year or updated; with - in front: downwards.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=_LARGEST_PAGE, help="How many to show.")]
All = Annotated[bool, typer.Option("--all", help="Show all of them. With --json: one product a line.")]


def get(*, product: Product, as_json: Json = False) -> None:
    """Show one product."""
    with Client(ClientSettings.read()) as client:
        document = client.get(f"/v1/products/{_key(product)}").content
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


def list_products(
    *,
    kind: Kind = None,
    make: Make = None,
    model: Model = None,
    year_from: YearFrom = None,
    year_to: YearTo = None,
    category: Category = None,
    price_from: PriceFrom = None,
    price_to: PriceTo = None,
    currency: Currency = None,
    status: Status = None,
    sort: Sort = None,
    limit: Limit = 20,
    every: All = False,
    as_json: Json = False,
) -> None:
    """List products."""
    filters = _filters(
        kind=kind,
        make=make,
        model=model,
        model_year_from=year_from,
        model_year_to=year_to,
        category=category,
        price_from=price_from,
        price_to=price_to,
        currency=currency,
        status=status,
        sort=sort,
    )
    _show("/v1/products", filters, limit=limit, every=every, as_json=as_json)


def search(
    *,
    text: Annotated[str, typer.Argument(help="What to look for.", show_default=False)],
    kind: Kind = None,
    make: Make = None,
    model: Model = None,
    year_from: YearFrom = None,
    year_to: YearTo = None,
    category: Category = None,
    price_from: PriceFrom = None,
    price_to: PriceTo = None,
    currency: Currency = None,
    status: Status = None,
    sort: Sort = None,
    limit: Limit = 20,
    every: All = False,
    as_json: Json = False,
) -> None:
    """Search products by their words."""
    filters = _filters(
        kind=kind,
        make=make,
        model=model,
        model_year_from=year_from,
        model_year_to=year_to,
        category=category,
        price_from=price_from,
        price_to=price_to,
        currency=currency,
        status=status,
        sort=sort,
    )
    _show("/v1/products:search", {"text": text} | filters, limit=limit, every=every, as_json=as_json)


def history(
    *,
    product: Product,
    limit: Limit = 20,
    every: Annotated[bool, typer.Option("--all", help="Show all of it. With --json: one change a line.")] = False,
    as_json: Json = False,
) -> None:
    """Show who changed what about a product, when, and by which request."""
    with Client(ClientSettings.read()) as client:
        pages = client.pages(f"/v1/products/{_key(product)}/history", {"page_size": _LARGEST_PAGE if every else limit})
        if as_json:
            _print_pages(pages, every=every)
            return
        for page in pages:
            for change in page["items"]:
                _print_change(change)
            if not every:
                _more(page)
                return


def _show(path: str, filters: Mapping[str, str | int], *, limit: int, every: bool, as_json: bool) -> None:
    with Client(ClientSettings.read()) as client:
        pages = client.pages(path, {**filters, "page_size": _LARGEST_PAGE if every else limit})
        if as_json:
            _print_pages(pages, every=every)
            return
        for page in pages:
            out.print(_table(page["items"]) if page["items"] else "No products.")
            if not every:
                _more(page)
                return


def _print_pages(pages: Iterator[Mapping[str, Any]], *, every: bool) -> None:
    if not every:
        output.print_json(next(pages))
        return
    for page in pages:
        for item in page["items"]:
            output.print_json(item)


def _more(page: Mapping[str, Any]) -> None:
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


def _print_change(change: Mapping[str, Any]) -> None:
    about = [f"by {change['actor']}"]
    if change.get("job_id"):
        about.append(f"job {change['job_id']} line {change['import_line']}")
    if change.get("reason"):
        about.append(f"because {change['reason']}")
    if change.get("trace_id"):
        about.append(f"trace {change['trace_id']}")
    out.print(f"[bold]{change['revision']:>4}[/] {change['recorded_at']} [bold]{change['type']}[/]")
    out.print(f"     [dim]{escape(', '.join(about))}[/]")
    for field in change.get("fields") or ():
        out.print(
            f"     {escape(field['field'])}: {escape(_value(field['before']))} -> {escape(_value(field['after']))}"
        )


def _value(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in document.items():
        if name == "price":
            yield f"{prefix}{name}", output.money(value)
        elif isinstance(value, dict):
            yield from _flat(cast("Mapping[str, Any]", value), f"{prefix}{name}.")
        elif isinstance(value, list):
            yield f"{prefix}{name}", ", ".join(_value(one) for one in cast("list[Any]", value))
        elif value is not None:
            yield f"{prefix}{name}", _value(value)


def _key(product: str) -> str:
    """The path segment for a product id, or for a SKU with or without the API's `sku:` before it."""
    return product.lower() if _UUID.fullmatch(product) else f"sku:{quote(product.removeprefix('sku:'), safe='')}"


def _filters(**given: str | int | None) -> dict[str, str | int]:
    return {name: value for name, value in given.items() if value is not None}
