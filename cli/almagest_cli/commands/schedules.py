"""`schedule`, `schedules`, `unschedule`, `correct`, `restore`: changes of another time than now."""

from collections.abc import Mapping
from typing import Annotated, Any

import orjson
import typer
from rich.markup import escape
from rich.table import Table

from almagest_cli import output
from almagest_cli.client import Client
from almagest_cli.commands.catalog import LARGEST_PAGE, Limit, Product, key, more, print_pages, time
from almagest_cli.output import Json, out
from almagest_cli.settings import ClientSettings

app = typer.Typer(help="Plan a price or a publication.", no_args_is_help=True)

Amount = Annotated[str, typer.Argument(help="The amount, such as 12999.00.", show_default=False)]
Currency = Annotated[str, typer.Argument(help="Its currency, such as EUR.", show_default=False)]
At = Annotated[str, typer.Option("--at", help="When it takes effect; a time without an offset is one here.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Why; it is kept with the change.")]


@app.command("price")
def schedule_price(
    *, product: Product, amount: Amount, currency: Currency, at: At, reason: Reason = None, as_json: Json = False
) -> None:
    """Let a product have a price from a time in the future on."""
    price = {"amount": amount, "currency": currency.upper()}
    _plan(product, {"price": price, "effective_at": time(at)}, reason, as_json=as_json)


@app.command("publish")
def schedule_publish(*, product: Product, at: At, reason: Reason = None, as_json: Json = False) -> None:
    """Let the public see a product from a time in the future on."""
    _plan(product, {"published": True, "effective_at": time(at)}, reason, as_json=as_json)


@app.command("unpublish")
def schedule_unpublish(*, product: Product, at: At, reason: Reason = None, as_json: Json = False) -> None:
    """Hide a product from a time in the future on."""
    _plan(product, {"published": False, "effective_at": time(at)}, reason, as_json=as_json)


def schedules(
    *,
    product: Annotated[str | None, typer.Argument(help="A product's id or SKU; all if left out.")] = None,
    due_before: Annotated[str | None, typer.Option(help="Only what takes effect before this time.")] = None,
    state: Annotated[
        list[str] | None, typer.Option(help="open, activated, cancelled or failed; open ones if not said.")
    ] = None,
    limit: Limit = 20,
    every: Annotated[bool, typer.Option("--all", help="Show all. With --json: one schedule a line.")] = False,
    as_json: Json = False,
) -> None:
    """Show what is planned, and why what is due has not come."""
    path = "/v1/schedules" if product is None else f"/v1/products/{key(product)}/schedules"
    wanted: dict[str, Any] = {"page_size": LARGEST_PAGE if every else limit}
    if due_before is not None:
        wanted["due_before"] = time(due_before)
    if state:
        wanted["state"] = state
    with Client(ClientSettings.read()) as client:
        pages = client.pages(path, wanted)
        if as_json:
            print_pages(pages, every=every)
            return
        for page in pages:
            out.print(_table(page["items"]) if page["items"] else "Nothing is planned.")
            if not every:
                more(page)
                return


def unschedule(
    *,
    product: Product,
    schedule: Annotated[str, typer.Argument(help="The id of the schedule.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Take back what is planned and has not come yet."""
    with Client(ClientSettings.read()) as client:
        answer = client.delete(f"/v1/products/{key(product)}/schedules/{schedule}")
    _told(answer.content, "It will not come.", "It was cancelled before.", as_json=as_json)


def correct(
    *,
    product: Product,
    amount: Amount,
    currency: Currency,
    since: Annotated[str, typer.Option("--from", help="Since when that was the price.")],
    until: Annotated[
        str | None, typer.Option("--until", help="Until when; left out: it holds now as well.", show_default=False)
    ] = None,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Say what the price really was in the past. What was believed before stays answerable."""
    body = {"amount": amount, "currency": currency.upper(), "effective_from": time(since)}
    if until is not None:
        body["effective_until"] = time(until)
    with Client(ClientSettings.read()) as client:
        answer = client.post(f"/v1/products/{key(product)}/price:correct", json=body | _because(reason))
    _told(answer.content, "Corrected.", "That was corrected before.", as_json=as_json)


def restore(
    *,
    product: Product,
    revision: Annotated[int, typer.Argument(min=0, help="The revision, as the history shows it.", show_default=False)],
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Bring back the description, the price and the publication of an earlier revision, as a new change."""
    body: dict[str, Any] = {"revision": revision}
    with Client(ClientSettings.read()) as client:
        answer = client.post(f"/v1/products/{key(product)}:restore", json=body | _because(reason))
    _told(answer.content, "Restored.", "It already is as it was then.", as_json=as_json)


def _plan(product: str, body: Mapping[str, Any], reason: str | None, *, as_json: bool) -> None:
    with Client(ClientSettings.read()) as client:
        answer = client.post(f"/v1/products/{key(product)}/schedules", json={**body, **_because(reason)}).content
    if as_json:
        output.print_json(answer)
        return
    out.print(f"Planned: [bold]{orjson.loads(answer)['schedule_id']}[/]")


def _because(reason: str | None) -> dict[str, str]:
    return {} if reason is None else {"reason": reason}


def _told(answer: bytes, changed: str, unchanged: str, *, as_json: bool) -> None:
    if as_json:
        output.print_json(answer)
        return
    told = orjson.loads(answer)
    out.print(f"{changed if told['changed'] else unchanged} [dim]revision {told['revision']}[/]")


def _table(items: list[Mapping[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("WHEN", "WHAT", "STATE", "PRODUCT", "SCHEDULE"):
        table.add_column(name, no_wrap=True)
    table.add_column("WHY")
    for one in items:
        if one["price"] is not None:
            what = f"price {output.money(one['price'])}"
        else:
            what = "publish" if one["published"] else "unpublish"
        refusal: Mapping[str, Any] | None = one["refusal"]
        why: str = one["failure"] or (refusal["message"] if refusal else one["reason"]) or ""
        state: str = "refused" if refusal else one["state"]
        cells = (one["effective_at"], what, state, one["product_id"], one["schedule_id"], why)
        table.add_row(*(escape(cell) for cell in cells))
    return table
