"""How soon what was written is seen: by a read that carries the write's token, by a reader who waits at catalog-query,
and by a follower of the change feed; beside an UPDATE and a SELECT of one row in the same Postgres.

One write at a time, so that what is measured is the way and not the queue. The way of a write to its reader: the
append's transaction, the event store's subscription, the projection's transaction, the read. Two of these wait for the
disk, where the reference waits once.
"""

import asyncio
import base64
import math
import ssl
import statistics
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import orjson
from almagest.auth.v1 import auth_pb2, auth_pb2_grpc
from almagest.catalog.events.v1 import product_events_pb2 as events
from almagest.catalog.v1 import changes_pb2, changes_pb2_grpc, query_pb2, query_pb2_grpc
from almagest.eventstore.v1 import event_pb2, event_store_pb2, event_store_pb2_grpc
from almagest_cli.local.postgres import OWNER, EmbeddedPostgres
from chassis.identity.files import FileIdentitySource
from chassis.rpc.channel import Channel
from google.protobuf.empty_pb2 import Empty
from harness.door import Door
from harness.running import RunningSystem, running_system

TIMES = 400
ROUNDS = 4
AIM = 0.020


def main() -> None:
    """Measure, in turns, and print medians and 99th percentiles."""
    with (
        tempfile.TemporaryDirectory(prefix="almagest-visibility-") as state,
        running_system(Path(state) / "system") as system,
    ):
        with Door.to(system) as door:
            authorization = str(door.http.headers["Authorization"])
            car = {
                "sku": "seen",
                "kind": "car",
                "name": "Seen",
                "text": "An estate with all-wheel drive, a long warranty and a towing hook. " * 23,
                "attributes": {"make": "Volvo", "model": "V60", "model_year": 2026},
            }
            product = door.call("POST", "/v1/products", json=car).json()
        taken = asyncio.run(_measure(system, authorization, product["product_id"]))
    _print(taken)


@dataclass
class _Taken:
    """Seconds, by what took them."""

    seconds: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def add(self, what: str, seconds: float) -> None:
        """It took so long."""
        self.seconds.setdefault(what, []).append(seconds)


REFERENCE = "UPDATE, then SELECT (reference)"
WRITE = "gateway: the write's answer"
READ = "gateway: the read with its token"
BOTH = "gateway: write and read"
DIRECT = "append answered -> read at catalog-query"
FEED = "append answered -> change feed of catalog-query"
DOOR = "gateway: write begun -> server-sent event"


def _print(taken: _Taken) -> None:
    print(f"one at a time, two shards, fsync on, {TIMES} times each, in {ROUNDS} turns; milliseconds")
    print(f"{'':50}{'median':>9}{'p99':>9}")
    for what, seconds in taken.seconds.items():
        ordered = sorted(seconds)
        p99 = ordered[math.ceil(len(ordered) * 0.99) - 1]
        print(f"{what:50}{statistics.median(ordered) * 1e3:9.2f}{p99 * 1e3:9.2f}")
    seen = statistics.median(taken.seconds[DIRECT])
    ratio = statistics.median(taken.seconds[BOTH]) / statistics.median(taken.seconds[REFERENCE])
    print(f"a new event is visible to a waiting reader after {seen * 1e3:.1f} ms (the aim: {AIM * 1e3:g})")
    print(f"a write and its read through the gateway take {ratio:.0f} times what UPDATE and SELECT take")


async def _measure(system: RunningSystem, authorization: str, product_id: str) -> _Taken:
    taken = _Taken()
    async with AsyncExitStack() as stack:
        reference = await _reference(system, stack)
        door = await _through_the_door(system, stack, authorization, product_id)
        direct = await _direct(system, stack, authorization, product_id)
        for _ in range(ROUNDS):
            for one in (reference, door, direct):
                for _ in range(TIMES // ROUNDS):
                    await one(taken)
    return taken


async def _reference(system: RunningSystem, stack: AsyncExitStack) -> Callable[[_Taken], Awaitable[None]]:
    places = system.local.places
    server = EmbeddedPostgres(places.state / "postgres", log=places.log("postgres"))
    server.ensure({"reference": ()})
    connection = await asyncpg.connect(server.dsn("reference", OWNER))
    stack.push_async_callback(connection.close)
    await connection.execute("CREATE TABLE product (id uuid PRIMARY KEY, price numeric NOT NULL, document bytea)")
    key = uuid.uuid4()
    await connection.execute("INSERT INTO product VALUES ($1, 0, $2)", key, b"x" * 2_000)
    count = 0

    async def once(taken: _Taken) -> None:
        nonlocal count
        count += 1
        began = time.perf_counter()
        await connection.execute("UPDATE product SET price = $2 WHERE id = $1", key, count)
        row = await connection.fetchrow("SELECT price, document FROM product WHERE id = $1", key)
        taken.add(REFERENCE, time.perf_counter() - began)
        if row is None or row["price"] != count:
            raise RuntimeError("the reference does not read what it wrote")

    return once


async def _through_the_door(
    system: RunningSystem, stack: AsyncExitStack, authorization: str, product_id: str
) -> Callable[[_Taken], Awaitable[None]]:
    client = await stack.enter_async_context(
        httpx.AsyncClient(
            base_url=system.url,
            verify=ssl.create_default_context(cafile=str(system.ca)),
            headers={"Authorization": authorization},
            timeout=30,
        )
    )
    heard: dict[str, asyncio.Future[float]] = {}
    answer = await stack.enter_async_context(client.stream("GET", "/v1/changes", params={"type": "PriceSet"}))

    async def follow() -> None:
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                change = orjson.loads(line[6:])
                future = heard.get(
                    next((one["after"] for one in change["fields"] if one["field"] == "price.amount"), "")
                )
                if future is not None and not future.done():
                    future.set_result(time.perf_counter())

    following = asyncio.create_task(follow())
    stack.callback(following.cancel)
    path = f"/v1/products/{product_id}"
    count = 0

    async def once(taken: _Taken) -> None:
        nonlocal count
        count += 1
        amount = f"{count}.00"
        heard[amount] = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        written = await client.put(f"{path}/price", json={"amount": amount, "currency": "EUR"})
        answered = time.perf_counter()
        read = await client.get(path, headers={"Almagest-Consistency": written.headers["Almagest-Consistency"]})
        ended = time.perf_counter()
        if read.json()["price"]["amount"] != amount:
            raise RuntimeError(f"the read is not fresh: {read.text}")
        # Whichever is first: a follower that has failed says why.
        arrived = heard[amount]
        await asyncio.wait({arrived, following}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        if not arrived.done():
            raise RuntimeError(f"the change feed did not tell of it: {following}")
        taken.add(DOOR, heard.pop(amount).result() - began)
        taken.add(WRITE, answered - began)
        taken.add(READ, ended - answered)
        taken.add(BOTH, ended - began)

    return once


async def _direct(
    system: RunningSystem, stack: AsyncExitStack, authorization: str, product_id: str
) -> Callable[[_Taken], Awaitable[None]]:
    identities = system.local.places.authority / "identities"

    async def channel(caller: str, service: str) -> Any:
        source = FileIdentitySource(identities / caller, "almagest.internal", service=caller)
        target = f"127.0.0.1:{system.local.ports.grpc[service]}"
        return await stack.enter_async_context(Channel(target, service=service, identity=source))

    auth: Any = auth_pb2_grpc.AuthServiceStub(await channel("gateway", "auth"))
    store: Any = event_store_pb2_grpc.EventStoreServiceStub(await channel("catalog-command", "event-store"))
    to_query = await channel("gateway", "catalog-query")
    query: Any = query_pb2_grpc.CatalogQueryServiceStub(to_query)
    feed: Any = changes_pb2_grpc.CatalogChangesServiceStub(to_query)
    token, good_until = "", 0.0
    count = 0

    async def person() -> str:
        nonlocal token, good_until
        if time.monotonic() > good_until:
            access = authorization.partition(" ")[2]
            exchanged = await auth.ExchangeToken(auth_pb2.ExchangeTokenRequest(access_token=access))
            token, good_until = exchanged.transaction_token, time.monotonic() + 30
        return token

    async def once(taken: _Taken) -> None:
        nonlocal count
        count += 1
        metadata = (("txn-token", await person()),)
        stream = feed.SubscribeChanges(changes_pb2.SubscribeChangesRequest(), metadata=metadata)
        await stream.read()
        price = events.PriceSet(price=events.Money(amount=f"{count}.50", currency="EUR"))
        append = event_store_pb2.Append(
            append_id=str(uuid.uuid4()),
            stream=f"product-{product_id}",
            fingerprint=b"visibility",
            transaction_token=token,
            any=Empty(),
            events=[
                event_pb2.NewEvent(
                    event_id=str(uuid.uuid4()), type=price.DESCRIPTOR.full_name, payload=price.SerializeToString()
                )
            ],
        )
        response = await store.Append(event_store_pb2.AppendRequest(appends=[append]))
        answered = time.perf_counter()
        position = response.results[0].appended.position

        async def read() -> float:
            await query.GetProduct(
                query_pb2.GetProductRequest(product_id=product_id, consistency_token=_opaque(position)),
                metadata=metadata,
            )
            return time.perf_counter()

        async def hear() -> float:
            while not (await stream.read()).changes:
                pass
            return time.perf_counter()

        seen, heard = await asyncio.gather(read(), hear())
        stream.cancel()
        taken.add(DIRECT, seen - answered)
        taken.add(FEED, heard - answered)

    return once


def _opaque(token: event_pb2.ConsistencyToken) -> str:
    return base64.urlsafe_b64encode(token.SerializeToString()).rstrip(b"=").decode()


if __name__ == "__main__":
    main()
