"""A small history that holds, to be broken."""

import base64
import uuid
from pathlib import Path
from typing import Any

import pytest
from almagest.catalog.events.v1 import product_events_pb2 as events
from chaos import chain, history
from chaos.history import CATEGORY, OK, PRODUCT, Writer
from chassis.buckets import bucket_of

SHARD = 0


class Tale:
    """A run of one shard, told step by step: what it leaves in its directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rows: list[dict[str, Any]] = []
        self.operations: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []
        self.documents: list[dict[str, Any]] = []
        self.now = 100.0

    def tick(self) -> float:
        self.now += 1
        return self.now

    def row(self, stream: str, kind: str, payload: bytes, identifier: uuid.UUID) -> dict[str, Any]:
        category, _, key = stream.partition("-")
        before = [row for row in self.rows if row["stream"] == stream]
        position = len(self.rows) + 1
        row = {
            "position": position,
            "origin": before[0]["position"] if before else position,
            "revision": len(before),
            "stream": stream,
            "bucket": bucket_of(key),
            "category": category,
            "type": f"almagest.catalog.events.v1.{kind}",
            "event_id": str(identifier),
            "recorded_at": 1_000_000 + position,
            "payload": base64.b64encode(payload).decode(),
            "metadata": "",
            "original_shard": None,
            "original_position": None,
        }
        self.rows.append(row)
        return row

    def append(self, key: str, *, count: int = 1, expectation: int = -3, **changed: Any) -> dict[str, Any]:
        """An append that was acknowledged."""
        append_id = str(uuid.uuid4())
        invoked = self.tick()
        written = []
        for index in range(count):
            identifier = history.event_id(append_id, 0, index)
            written.append(self.row(f"{CATEGORY}-{key}", "Written", history.payload(identifier), identifier))
        operation = {
            "kind": "append",
            "client": "writer",
            "id": append_id,
            "altered": False,
            "bucket": bucket_of(key),
            "parts": [[f"{CATEGORY}-{key}", expectation, count]],
            "invoked": invoked,
            "completed": self.tick(),
            "outcome": OK,
            "replayed": False,
            "answer": {
                "revisions": [[written[0]["revision"], written[-1]["revision"]]],
                "shard": SHARD,
                "position": written[-1]["position"],
            },
            "reason": None,
            "conflict": None,
        } | changed
        self.operations.append(operation)
        return operation

    def read(self, key: str) -> dict[str, Any]:
        """A read of a stream that answers all of it."""
        stream = f"{CATEGORY}-{key}"
        ids = [uuid.UUID(row["event_id"]).bytes for row in self.rows if row["stream"] == stream]
        operation = {
            "kind": "read",
            "client": "reader",
            "stream": stream,
            "bucket": bucket_of(key),
            "invoked": self.tick(),
            "completed": self.tick(),
            "outcome": OK,
            "last": len(ids) - 1,
            "digest": history.digest(ids),
        }
        self.operations.append(operation)
        return operation

    def price(self, product: str, amount: str) -> dict[str, Any]:
        """A price set at the door, of a product that comes into being with its first."""
        stream = f"{PRODUCT}-{product}"
        invoked = self.tick()
        if not any(row["stream"] == stream for row in self.rows):
            general = events.Description(name="Name", category="things", general=events.GeneralAttributes())
            created = events.ProductCreated(product_id=product, sku=f"sku-{product}", description=general)
            self.row(stream, "ProductCreated", created.SerializeToString(), uuid.uuid4())
        price = events.PriceSet(price=events.Money(amount=amount, currency="EUR"))
        row = self.row(stream, "PriceSet", price.SerializeToString(), uuid.uuid4())
        operation = {
            "kind": "write",
            "client": "person",
            "key": uuid.uuid4().hex,
            "product": product,
            "amount": amount,
            "behind": 0,
            "expected": None,
            "invoked": invoked,
            "completed": self.tick(),
            "outcome": OK,
            "revision": row["revision"],
            "status": 200,
        }
        self.operations.append(operation)
        return operation

    def get(self, product: str, revision: int, amount: str, at_least: int) -> dict[str, Any]:
        """A read at the door, with the token of a revision."""
        operation = {
            "kind": "get",
            "client": "person",
            "seen": [[product, revision, amount, at_least]],
            "invoked": self.tick(),
            "completed": self.tick(),
            "outcome": OK,
            "status": 200,
        }
        self.operations.append(operation)
        return operation

    def follow(self, *, connection: int = 1) -> dict[str, Any]:
        """A message to the subscriber, with all that is new."""
        begin = self.messages[-1]["checkpoint"] if self.messages else 0
        rows = self.rows[begin:]
        message = {
            "connection": connection,
            "shard": SHARD,
            "checkpoint": len(self.rows),
            "positions": history.ranges([row["position"] for row in rows]),
            "digest": history.digest([uuid.UUID(row["event_id"]).bytes for row in rows]),
        }
        self.messages.append(message)
        return message

    def document(self, product: str, revision: int, amount: str) -> dict[str, Any]:
        """The product in the final read model."""
        document = {
            "product_id": product,
            "sku": f"sku-{product}",
            "kind": "general",
            "name": "Name",
            "text": "",
            "category": "things",
            "status": "draft",
            "price": {"amount": amount, "currency": "EUR"},
            "revision": revision,
        }
        self.documents.append(document)
        return document

    def chain(self) -> None:
        """Give every row the hash that it must have."""
        last = chain.GENESIS
        for row in self.rows:
            last = chain.hash_after(last, row)
            row["hash"] = base64.b64encode(last).decode()

    def tell(self) -> None:
        """Write it all down."""
        with Writer(history.log_file(self.directory, SHARD)) as log:
            for row in self.rows:
                log.write([row[name] for name in chain.COLUMNS])
        with Writer(self.directory / history.HISTORY) as operations:
            for operation in self.operations:
                operations.write(operation)
        with Writer(self.directory / "subscription-all.jsonl") as subscription:
            subscription.write({"shards": [SHARD], "categories": [], "buckets": []})
            for message in self.messages:
                subscription.write(message)
        with Writer(self.directory / history.MODEL) as model:
            for document in self.documents:
                model.write(document)


PRODUCT_ID = "5f9b8c1e-0000-5000-8000-000000000001"


@pytest.fixture
def tale(tmp_path: Path) -> Tale:
    """Two streams and a product, written, read and followed; everything holds."""
    tale = Tale(tmp_path)
    tale.append("one", count=3, expectation=-1)
    tale.append("two", count=2)
    tale.read("one")
    tale.follow()
    tale.append("one", expectation=2)
    tale.price(PRODUCT_ID, "10.01")
    tale.get(PRODUCT_ID, 1, "10.01", at_least=1)
    tale.price(PRODUCT_ID, "10.02")
    tale.get(PRODUCT_ID, 2, "10.02", at_least=2)
    tale.read("one")
    tale.append("two")
    tale.follow(connection=2)
    tale.document(PRODUCT_ID, 2, "10.02")
    tale.chain()
    return tale
