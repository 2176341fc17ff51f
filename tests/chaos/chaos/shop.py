"""People at the door: they create products, change prices and read, over HTTP/2, each with what a session remembers."""

import asyncio
import base64
import random
import ssl
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
from almagest.eventstore.v1 import event_pb2

from chaos.direct import Cancellation
from chaos.history import FAIL, OK, UNKNOWN, Record, Writer

_NAMESPACE: Final = uuid.UUID("6f0f5f3e-6c1b-5d53-9a0b-0a2f6f6c9d11")
"""Of product ids, which are made from SKUs."""
_TOKEN: Final = "almagest-consistency"
_WITHOUT_EFFECT: Final = frozenset({400, 401, 403, 404, 412, 415, 422, 429})
_UNAUTHORIZED: Final = 401
_NOT_FOUND: Final = 404
_SHELF: Final = 2_000
_UNRESOLVED: Final = UNKNOWN


@dataclass(eq=False)
class Known:
    """A product as far as somebody knows it."""

    product: str
    revision: int
    token: str


@dataclass(frozen=True)
class Write:
    """A write as it is asked for, as often as it is."""

    key: str
    product: str
    amount: str
    behind: int
    """How many events of the same write follow the price."""
    expected: int | None
    method: str
    path: str
    body: bytes
    headers: Mapping[str, str]


@dataclass(eq=False)
class Shop:
    """What all people share.

    Attributes:
        url: of the gateway, or of the relay to it.
        ca: what to trust.
        email: of the one admin, as whom all log in.
        password: theirs.
        run: part of every SKU.
        record: of the operations.
    """

    url: str
    ca: Path
    email: str
    password: str
    run: str
    record: Writer
    chance: random.Random
    cancellation: Cancellation
    rate: float
    outcomes: Counter[str] = field(default_factory=Counter[str])
    statuses: Counter[int] = field(default_factory=Counter[int])
    shelf: dict[str, Known] = field(default_factory=dict[str, Known])
    tokens: dict[int, tuple[int, str]] = field(default_factory=dict[int, tuple[int, str]])
    unresolved: dict[str, Write] = field(default_factory=dict[str, Write])
    access_token: str = ""
    cents: int = 10_000

    def client(self) -> httpx.AsyncClient:
        """A person's own connection."""
        tls = ssl.create_default_context(cafile=str(self.ca))
        return httpx.AsyncClient(base_url=self.url, verify=tls, http2=True, timeout=10)

    async def log_in(self, http: httpx.AsyncClient) -> None:
        """Get an access token; tried until it is given."""
        while True:
            try:
                answer = await http.post("/v1/sessions", json={"email": self.email, "password": self.password})
                if answer.is_success:
                    self.access_token = answer.json()["access_token"]
                    return
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.3)

    def amount(self) -> str:
        """A price that nobody had before."""
        self.cents += 1
        return f"{self.cents // 100}.{self.cents % 100:02d}"

    async def visit(self, name: str, stop: asyncio.Event, people: int) -> None:
        """Do what people do until told to stop."""
        async with self.client() as http:
            person = Person(self, name, http)
            due = time.monotonic()
            while not stop.is_set():
                await person.act()
                due = max(due + people / self.rate, time.monotonic() - 1)
                pause = due - time.monotonic()
                if pause > 0:
                    await asyncio.sleep(pause)

    async def resolve(self, *, within: float = 120) -> int:
        """Repeat every write of unknown outcome with its key until it is answered; answers how many are not."""
        until = time.monotonic() + within
        self.cancellation.share = 0
        async with self.client() as http:
            await self.log_in(http)
            person = Person(self, "resolver", http)
            while self.unresolved and time.monotonic() < until:
                for write in list(self.unresolved.values()):
                    await person.write(write)
        return len(self.unresolved)

    async def documents(self) -> list[Record]:
        """The whole read model, by pages, as fresh as the last writes."""
        found: list[Record] = []
        fresh = ", ".join(token for _, token in self.tokens.values())
        async with self.client() as http:
            await self.log_in(http)
            headers = {_TOKEN: fresh, "authorization": f"Bearer {self.access_token}"}
            cursor: str | None = None
            until = time.monotonic() + 120
            while True:
                parameters: dict[str, str | int] = {"page_size": 200} | ({"cursor": cursor} if cursor else {})
                answer = await http.get("/v1/products", params=parameters, headers=headers)
                if not answer.is_success:
                    if time.monotonic() > until:
                        answer.raise_for_status()
                    await asyncio.sleep(0.2)
                    continue
                page = orjson.loads(answer.content)
                found += page["items"]
                cursor = page["next_cursor"]
                if cursor is None:
                    return found


class Person:
    """One session."""

    def __init__(self, shop: Shop, name: str, http: httpx.AsyncClient) -> None:
        self._shop = shop
        self._name = name
        self._http = http
        self._own: dict[str, Known] = {}
        self._made = 0

    async def act(self) -> None:
        """One operation."""
        chance = self._shop.chance
        dice = chance.random()
        known = chance.choice(list(self._shop.shelf.values())) if self._shop.shelf else None
        if self._shop.unresolved and dice < 0.1:
            await self.write(chance.choice(list(self._shop.unresolved.values())))
        elif known is None or dice < 0.25:
            await self.write(self._creation())
        elif dice < 0.5:
            await self.write(self._price(known))
        elif dice < 0.9:
            await self._get(known)
        else:
            await self._list()

    def _creation(self) -> Write:
        shop = self._shop
        self._made += 1
        sku = f"{shop.run}-{self._name}-{self._made}"
        amount, publish = shop.amount(), shop.chance.random() < 0.5
        body = {
            "sku": sku,
            "kind": "general",
            "name": f"Product {sku}",
            "text": "Made under fire.",
            "category": f"chaos/{self._name}",
            "attributes": {"brand": "Phoenix"},
            "price": {"amount": amount, "currency": "EUR"},
            "publish": publish,
        }
        product = str(uuid.uuid5(_NAMESPACE, sku))
        return self._write("POST", "/v1/products", product, amount, body, behind=int(publish), expected=None)

    def _price(self, known: Known) -> Write:
        chance = self._shop.chance
        amount = self._shop.amount()
        revision = self._latest(known).revision
        expected = None if chance.random() < 0.3 else max(0, revision - (chance.random() < 0.1))
        body = {"amount": amount, "currency": "EUR", "reason": "Chaos"}
        path = f"/v1/products/{known.product}/price"
        return self._write("PUT", path, known.product, amount, body, behind=0, expected=expected)

    def _write(
        self, method: str, path: str, product: str, amount: str, body: Record, *, behind: int, expected: int | None
    ) -> Write:
        key = uuid.UUID(int=self._shop.chance.getrandbits(128), version=4).hex
        headers = {"content-type": "application/json", "idempotency-key": key}
        if expected is not None:
            headers["if-match"] = f'"{expected}"'
        return Write(key, product, amount, behind, expected, method, path, orjson.dumps(body), headers)

    def _latest(self, known: Known) -> Known:
        own = self._own.get(known.product)
        return own if own is not None and own.revision >= known.revision else known

    async def write(self, write: Write) -> None:
        """Ask for a write, maybe not for the first time."""
        shop = self._shop
        record: Record = {
            "kind": "write",
            "client": self._name,
            "key": write.key,
            "product": write.product,
            "amount": write.amount,
            "behind": write.behind,
            "expected": write.expected,
            "revision": None,
        }
        shop.unresolved.setdefault(write.key, write)
        answer = await self._ask(record, write.method, write.path, content=write.body, headers=write.headers)
        if answer is not None and answer.is_success:
            record |= {"outcome": OK, "revision": int(answer.headers["etag"].strip('"'))}
            known = Known(write.product, record["revision"], answer.headers[_TOKEN])
            self._learn(known)
            self._keep_token(known.token)
        elif answer is not None and answer.status_code in _WITHOUT_EFFECT:
            record["outcome"] = FAIL
        if record["outcome"] != _UNRESOLVED:
            shop.unresolved.pop(write.key, None)
        self._end(record)

    def _keep_token(self, text: str) -> None:
        """The furthest token of each shard: together they say what the final read must show."""
        token = event_pb2.ConsistencyToken.FromString(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        before = self._shop.tokens.get(token.shard)
        if before is None or before[0] < token.position:
            self._shop.tokens[token.shard] = (token.position, text)

    def _learn(self, known: Known) -> None:
        shop = self._shop
        for memory in (self._own, shop.shelf):
            before = memory.get(known.product)
            if before is None or before.revision < known.revision:
                memory[known.product] = known
            if len(memory) > _SHELF:
                del memory[next(iter(memory))]

    async def _get(self, known: Known) -> None:
        shop, known = self._shop, self._latest(known)
        fresh = shop.chance.random() < 0.8
        record: Record = {"kind": "get", "client": self._name, "seen": []}
        answer = await self._ask(
            record, "GET", f"/v1/products/{known.product}", headers={_TOKEN: known.token} if fresh else {}
        )
        at_least = known.revision if fresh else None
        if answer is not None and answer.is_success:
            document = orjson.loads(answer.content)
            record["outcome"] = OK
            record["seen"] = [_seen(document, at_least)]
            self._learn(Known(known.product, document["revision"], answer.headers[_TOKEN]))
        elif answer is not None and answer.status_code == _NOT_FOUND and fresh:
            record["outcome"] = OK
            record["seen"] = [[known.product, -1, None, at_least]]
        self._end(record)

    async def _list(self) -> None:
        shop = self._shop
        record: Record = {"kind": "list", "client": self._name, "seen": []}
        own = shop.chance.choice(list(self._own.values())) if self._own else None
        parameters: dict[str, str | int] = {"page_size": 20, "sort": "-updated", "category": f"chaos/{self._name}"}
        answer = await self._ask(
            record, "GET", "/v1/products", params=parameters, headers={_TOKEN: own.token} if own else {}
        )
        if answer is not None and answer.is_success:
            record["outcome"] = OK
            record["seen"] = [
                _seen(document, own.revision if own and own.product == document["product_id"] else None)
                for document in orjson.loads(answer.content)["items"]
            ]
        self._end(record)

    async def _ask(self, record: Record, method: str, path: str, **arguments: Any) -> httpx.Response | None:
        """The answer; None if there is none. Its record is of unknown outcome until somebody says otherwise."""
        shop = self._shop
        headers = {**arguments.pop("headers", {}), "authorization": f"Bearer {shop.access_token}"}
        record |= {"invoked": time.monotonic(), "completed": None, "outcome": UNKNOWN, "status": None}
        try:
            answer: httpx.Response = await shop.cancellation.maybe(
                self._http.request(method, path, headers=headers, **arguments)
            )
        # httpcore stumbles in several ways over a stream that was cancelled while others of its connection go on.
        except (httpx.HTTPError, asyncio.CancelledError, RuntimeError, ValueError, LookupError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            record["completed"] = time.monotonic()
            return None
        record["completed"] = time.monotonic()
        record["status"] = answer.status_code
        shop.statuses[answer.status_code] += 1
        if answer.status_code == _UNAUTHORIZED:
            await asyncio.sleep(0.2)
        return answer

    def _end(self, record: Record) -> None:
        self._shop.record.write(record)
        self._shop.outcomes[f"{record['kind']} {record['outcome']}"] += 1


def _seen(document: Record, at_least: int | None) -> list[Any]:
    price = document["price"]
    return [document["product_id"], document["revision"], None if price is None else price["amount"], at_least]
