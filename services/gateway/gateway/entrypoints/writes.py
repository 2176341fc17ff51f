"""What all writes of products share: once, at the revision that was read, and answered with what became of it."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.catalog.v1 import command_pb2
from chassis.telemetry.tracing import inject
from starlette.requests import Request
from starlette.responses import Response

from gateway.application.idempotency import Command, KeyUsedOtherwise, StillRunning, fingerprint, once
from gateway.application.ports import Person, Ports
from gateway.entrypoints.dependencies import (
    CONSISTENCY,
    REPLAYED,
    expected_revision,
    json_response,
    key_used_otherwise,
    product_id_of,
    still_running,
)
from gateway.representations.products import changed
from gateway.requests.products import CarAttributes, GeneralAttributes, Money, TruckAttributes, VehicleAttributes


@asynccontextmanager
async def a_write(
    request: Request, ports: Ports, person: Person, key: str | None, body: bytes | None = None
) -> AsyncGenerator[Command]:
    """A write that has its effect once, however often it is asked for with the same key.

    Raises:
        Refused: The key came with another request, or the same request still runs.
    """
    target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    asked: bytes = request.state.body if body is None else body
    digest = fingerprint(request.method, target, request.headers.get("if-match", ""), asked)
    try:
        async with once(ports.keys, person, key, digest) as command:
            yield command
    except KeyUsedOtherwise:
        raise key_used_otherwise() from None
    except StillRunning:
        raise still_running() from None


async def carry_out(
    request: Request,
    ports: Ports,
    person: Person,
    *,
    reference: str,
    commands: Callable[[str], Sequence[command_pb2.ProductCommand]],
    reason: str | None,
    if_match: str | None,
    key: str | None,
) -> tuple[command_pb2.Executed, str, dict[str, str]]:
    """Ask for changes of one product, all or none: commands that are made for the id of the write.

    Returns:
        What became of it, the id of the write, and the headers that say so.
    """
    product_id = product_id_of(reference)
    async with a_write(request, ports, person, key) as command:
        if command.answer:
            executed = command_pb2.Executed.FromString(command.answer)
            executed.replayed = True
        else:
            item = command_pb2.CommandItem(
                command_id=command.command_id,
                product_id=product_id,
                commands=commands(command.command_id),
                expected_revision=expected_revision(if_match),
                fingerprint=command.fingerprint,
                transaction_token=person.token,
                traceparent=inject(),
                reason=reason or "",
            )
            executed = await ports.catalog_command.execute(item)
            if not executed.changed:
                command.answer = executed.SerializeToString()
    headers = {"ETag": f'"{executed.revision}"', CONSISTENCY: executed.consistency_token}
    if key is not None and executed.replayed:
        headers[REPLAYED] = "true"
    return executed, command.command_id, headers


async def execute(
    request: Request,
    ports: Ports,
    person: Person,
    *,
    reference: str,
    commands: Sequence[command_pb2.ProductCommand],
    reason: str | None,
    if_match: str | None,
    key: str | None,
) -> Response:
    """Ask for changes of one product, all or none."""
    sku = sku_of(reference)
    executed, _, headers = await carry_out(
        request,
        ports,
        person,
        reference=reference,
        commands=lambda _: commands,
        reason=reason,
        if_match=if_match,
        key=key,
    )
    if executed.created:
        headers["Location"] = f"/v1/products/{executed.product_id}"
    return json_response(changed(executed, sku), 201 if executed.created else 200, headers)


def sku_of(reference: str) -> str | None:
    """The SKU that a product was referred to by; None when it was by its id."""
    return reference[4:].replace("%2F", "/") if reference.startswith("sku:") else None


def description(
    *, name: str, text: str, category: str, attributes: GeneralAttributes | CarAttributes | TruckAttributes
) -> events.Description:
    """A description on the wire."""
    message = events.Description(name=name, text=text, category=category)
    match attributes:
        case CarAttributes():
            message.car.vehicle.CopyFrom(_vehicle(attributes))
            message.car.doors = attributes.doors or 0
            message.car.seats = attributes.seats or 0
        case TruckAttributes():
            message.truck.vehicle.CopyFrom(_vehicle(attributes))
            message.truck.payload_kg = attributes.payload_kg or 0
            message.truck.gross_weight_kg = attributes.gross_weight_kg or 0
        case GeneralAttributes():
            message.general.SetInParent()
            message.general.brand = attributes.brand or ""
            message.general.gtin = attributes.gtin or ""
            message.general.properties.update(attributes.properties)
    return message


def _vehicle(attributes: VehicleAttributes) -> events.VehicleAttributes:
    return events.VehicleAttributes(
        make=attributes.make,
        model=attributes.model,
        model_year=attributes.model_year,
        vin=attributes.vin or "",
        body_styles=attributes.body_styles,
    )


def set_price(price: Money) -> command_pb2.ProductCommand:
    """A price on the wire."""
    return command_pb2.ProductCommand(set_price=command_pb2.SetPrice(price=money(price)))


def money(price: Money) -> events.Money:
    """An amount on the wire."""
    return events.Money(amount=price.amount, currency=price.currency)
