"""The products as documents: a product's events in, its row in the read model out."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, cast
from uuid import UUID

import orjson
from almagest.eventstore.v1 import event_pb2
from chassis.database.pool import Connection

from catalog_query.adapters.postgres import ReadModelShard
from catalog_query.adapters.products import ProductTable
from catalog_query.adapters.schedules import ScheduleTable
from catalog_query.domain import words
from catalog_query.domain.errors import PoisonousEvent
from catalog_query.domain.folding import NOTHING_SKIPPED, fold
from catalog_query.domain.product import Document, product_id_of
from catalog_query.domain.projection import PRODUCTS, Target
from catalog_query.domain.query import VEHICLES
from catalog_query.domain.rows import ProductRow, caseless
from catalog_query.projections.projection import Applier, Prepared
from catalog_query.projections.schedules import WithSchedules

_NOT_A_VEHICLE: Final[Mapping[str, object]] = {}
_BETWEEN_TURNS: Final = 100
"""Documents that are folded before others on this event loop, such as reads, have their turn."""


class Products:
    """The projection into `products`."""

    name = PRODUCTS
    title = "project products"

    def __init__(self, *, cached_documents: int, cached_while_filling: int) -> None:
        self._cached = cached_documents
        self._cached_while_filling = cached_while_filling

    def applier(self, shard: ReadModelShard, target: Target, *, filling: bool) -> Applier:
        """For one pair of shards and one generation."""
        cached = self._cached_while_filling if filling else self._cached
        products = ProductApplier(ProductTable(shard, target), cached=cached, filling=filling)
        return WithSchedules(products, ScheduleTable(target))


class ProductApplier:
    """Folds events into documents, and makes rows of those that changed."""

    def __init__(self, table: ProductTable, *, cached: int, filling: bool) -> None:
        self._table = table
        self._most_cached = cached
        self._filling = filling
        self._documents: OrderedDict[str, Document] = OrderedDict()

    async def prepare(
        self, events: Sequence[event_pb2.RecordedEvent], skipped: Mapping[str, frozenset[int]], *, careful: bool
    ) -> Prepared:
        """The documents after the events, and the rows to write."""
        poisons: dict[str, PoisonousEvent] = {}
        before = await self._known(events, poisons, careful=careful)
        after: dict[str, Document | None] = dict(before)
        for count, event in enumerate(events):
            stream = event.stream
            if stream in poisons:
                continue
            try:
                after[stream] = fold(
                    after.get(stream), event, skipped.get(stream, NOTHING_SKIPPED) if skipped else NOTHING_SKIPPED
                )
            except PoisonousEvent as error:
                poisons[stream] = error
            if count % _BETWEEN_TURNS == _BETWEEN_TURNS - 1:
                await asyncio.sleep(0)
        changed = {
            stream: document
            for stream, document in after.items()
            if document is not None and document is not before.get(stream)
        }
        rows: list[ProductRow] = []
        for count, (stream, document) in enumerate(changed.items()):
            rows.append(row(document, before=before.get(stream)))
            if count % _BETWEEN_TURNS == _BETWEEN_TURNS - 1:
                await asyncio.sleep(0)

        async def write(connection: Connection) -> None:
            await self._write(connection, rows)

        def committed() -> None:
            self._remember(changed)
            for held in poisons:
                self.forget(held)

        return Prepared(write if rows else None, list(poisons.values()), committed)

    async def _write(self, connection: Connection, rows: Sequence[ProductRow]) -> None:
        if not self._filling:
            await self._table.merge(connection, rows)
            return
        new = [row for row in rows if row.base_revision < 0]
        if new:
            await self._table.copy(connection, new)
        changed = [row for row in rows if row.base_revision >= 0]
        if changed:
            await self._table.merge(connection, changed)

    async def _known(
        self, events: Sequence[event_pb2.RecordedEvent], poisons: dict[str, PoisonousEvent], *, careful: bool
    ) -> dict[str, Document]:
        """The present documents of the products that the events are about, by stream."""
        known: dict[str, Document] = {}
        missing: dict[UUID, str] = {}
        seen: set[str] = set()
        for event in events:
            stream = event.stream
            if stream in seen:
                continue
            seen.add(stream)
            cached = self._documents.get(stream)
            if cached is not None:
                known[stream] = cached
            elif event.revision or careful or event.HasField("original"):
                try:
                    missing[UUID(product_id_of(stream))] = stream
                except ValueError:
                    poisons[stream] = UnnamedProduct(event)
        if missing:
            for product_id, found in (await self._table.read(list(missing))).items():
                known[missing[product_id]] = document_of(found.document)
        return known

    def _remember(self, changed: Mapping[str, Document]) -> None:
        for stream, document in changed.items():
            self._documents[stream] = document
            self._documents.move_to_end(stream)
        while len(self._documents) > self._most_cached:
            self._documents.popitem(last=False)

    def forget(self, stream: str | None = None) -> None:
        """Remember nothing of a product, or of any."""
        if stream is None:
            self._documents.clear()
        else:
            self._documents.pop(stream, None)


class UnnamedProduct(PoisonousEvent):
    """The stream's id is no product id."""

    def __init__(self, event: event_pb2.RecordedEvent) -> None:
        super().__init__(event, "the stream is not named by a product id")


def row(document: Document, *, before: Document | None) -> ProductRow:
    """The row of a product, to be written over the row of the document before, None when there is none."""
    kind = document["kind"]
    price = document["price"]
    attributes = document["attributes"]
    is_vehicle = kind in VEHICLES
    vehicle = attributes if is_vehicle else _NOT_A_VEHICLE
    return ProductRow(
        base_revision=-1 if before is None else before["revision"],
        product_id=document["product_id"],
        kind=kind,
        revision=document["revision"],
        sku=document["sku"],
        name_key=caseless(document["name"]),
        category=document["category"],
        status=document["status"],
        price_amount=price["amount"] if price else None,
        price_currency=price["currency"] if price else None,
        make_key=caseless(cast("str", vehicle["make"] or "")) if is_vehicle else None,
        model_key=caseless(cast("str", vehicle["model"] or "")) if is_vehicle else None,
        model_year=cast("int | None", vehicle.get("model_year")),
        doors=cast("int | None", vehicle.get("doors")),
        seats=cast("int | None", vehicle.get("seats")),
        payload_kg=cast("int | None", vehicle.get("payload_kg")),
        gross_weight_kg=cast("int | None", vehicle.get("gross_weight_kg")),
        updated_at=datetime.fromisoformat(document["updated_at"]),
        document=orjson.dumps(document),
        # A fold shares what did not change; what is searched is described in one piece, with the attributes.
        search=None if before is not None and before["attributes"] is attributes else _search(document),
    )


def document_of(stored: bytes) -> Document:
    """The document of a row."""
    return cast("Document", orjson.loads(stored))


def _search(document: Document) -> str:
    attributes = document["attributes"]
    important = [attributes.get(name) for name in ("brand", "make", "model", "model_year")]
    other = [attributes.get(name) for name in ("gtin", "vin")]
    styles = cast("Sequence[str]", attributes.get("body_styles") or ())
    properties = cast("Mapping[str, str]", attributes.get("properties") or {})
    return words.vector(
        important=_joined([document["sku"], document["name"], *important]),
        other=_joined(
            [document["kind"], document["category"], *other, *styles, *properties.values(), document["text"]]
        ),
    )


def _joined(parts: Sequence[object]) -> str:
    return " ".join(str(part) for part in parts if part)
