"""Everything that people do at the door, again and again; whatever is not answered as it should be is a failure."""

import asyncio
import ssl
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any

import httpx
import orjson
from h2.exceptions import ProtocolError

_LOGIN_SECONDS = 120.0
_LOOK_SECONDS = 0.1
_JOB_SECONDS = 60.0
_CUT_OFF = (httpx.HTTPError, ProtocolError)
"""How the client tells that a connection ended. The h2 library takes the PING that follows a GOAWAY for an error."""


class Load:
    """Clients of one gateway.

    Args:
        url: where it is.
        ca: the file of those whom clients trust, which they read again when it changes.
        email: who they are.
        password: by what.
        rate: requests a second, about, over all clients.
    """

    def __init__(self, url: str, ca: Path, *, email: str, password: str, rate: float) -> None:
        self._url, self._ca = url, ca
        self._login = {"email": email, "password": password}
        self._rate = rate
        self._tls = ssl.create_default_context(cafile=str(ca))
        self._token = ""
        self.requests: Counter[str] = Counter()
        self.failures: list[str] = []
        self.resent: Counter[str] = Counter()
        self.feed_events = 0
        self.feed_connections = 0
        self.slowest = 0.0

    async def run(self, seconds: float, *, clients: int = 6) -> None:
        """Work for so long."""
        await self.run_while(asyncio.sleep(seconds), clients=clients)

    async def run_while(self, disturbance: Awaitable[None], *, clients: int = 6) -> None:
        """Work until something else is done."""
        stop = asyncio.Event()
        async with self._client(http2=True) as door:
            await self._log_in(door)
        async with asyncio.TaskGroup() as group:
            helpers = [group.create_task(work) for work in (self._follow_trust(), self._stay_logged_in())]
            for number in range(clients):
                # Half of them each way: connections that live, and connections that are made for each few requests.
                group.create_task(self._shop(number, stop, clients, http2=number % 2 == 0))
            group.create_task(self._import(stop))
            feed = group.create_task(self._feed(stop))
            await disturbance
            stop.set()
            await asyncio.sleep(0.5)
            for task in (*helpers, feed):
                task.cancel()

    def _client(self, *, http2: bool) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self._url, verify=self._tls, http2=http2, http1=not http2, timeout=30)

    async def _follow_trust(self) -> None:
        seen = self._ca.read_bytes()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if (found := self._ca.read_bytes()) != seen:
                self._tls.load_verify_locations(cadata=found.decode("ascii"))
                seen = found

    async def _log_in(self, door: httpx.AsyncClient) -> None:
        answer = await self._ask(door, "log in", "POST", "/v1/sessions", json=self._login)
        if answer is not None:
            self._token = answer.json()["access_token"]

    async def _stay_logged_in(self) -> None:
        while True:
            await asyncio.sleep(_LOGIN_SECONDS)
            async with self._client(http2=True) as door:
                await self._log_in(door)

    async def _ask(
        self, door: httpx.AsyncClient, what: str, method: str, path: str, **arguments: Any
    ) -> httpx.Response | None:
        """The answer; None when there was none that is good, which is counted."""
        headers: Mapping[str, str] = arguments.pop("headers", {})
        if self._token:
            headers = {"Authorization": f"Bearer {self._token}", **headers}
        began = time.monotonic()
        self.requests[what] += 1
        try:
            try:
                answer = await door.request(method, path, headers=headers, **arguments)
            except _CUT_OFF as error:
                # A server may close a connection that is open between requests, and a request may just be on its way:
                # HTTP has the client send it again, once. Writes have an idempotency key.
                self.resent[f"{what}: {type(error).__name__}"] += 1
                answer = await self._again(method, path, headers, arguments)
        except _CUT_OFF as error:
            self._failed(what, f"{type(error).__name__}: {error}")
            return None
        self.slowest = max(self.slowest, time.monotonic() - began)
        if not answer.is_success:
            self._failed(what, f"{answer.status_code} {answer.text[:300]}")
            return None
        return answer

    async def _again(
        self, method: str, path: str, headers: Mapping[str, str], arguments: Mapping[str, Any]
    ) -> httpx.Response:
        async with self._client(http2=False) as door:
            while True:
                answer = await door.request(method, path, headers=headers, **arguments)
                # The first one may still be at work; its answer is for whoever asks again.
                if answer.status_code != httpx.codes.CONFLICT or answer.json()["reason"] != "REQUEST_IN_PROGRESS":
                    return answer
                await asyncio.sleep(0.1)

    def _failed(self, what: str, how: str) -> None:
        self.failures.append(f"{time.strftime('%H:%M:%S')} {what}: {how}")

    async def _shop(self, number: int, stop: asyncio.Event, clients: int, *, http2: bool) -> None:
        pace = clients * 5 / self._rate
        while not stop.is_set():
            # A client lives for some rounds, so that connections are made all the time, and some grow old.
            async with self._client(http2=http2) as door:
                for _ in range(20 if number < clients // 2 else 3):
                    if stop.is_set():
                        break
                    began = time.monotonic()
                    await self._round(door)
                    await asyncio.sleep(max(0.0, pace - (time.monotonic() - began)))

    async def _round(self, door: httpx.AsyncClient) -> None:
        sku = f"STORM-{uuid.uuid4()}"
        body = {
            "sku": sku,
            "kind": "general",
            "name": "Astrolabe in a storm",
            "category": "instruments",
            "attributes": {"brand": "Hipparchus"},
            "price": {"amount": "99.50", "currency": "EUR"},
            "publish": True,
        }
        made = await self._ask(
            door, "create", "POST", "/v1/products", json=body, headers={"Idempotency-Key": f'"{uuid.uuid4()}"'}
        )
        if made is None:
            return
        fresh = {"Almagest-Consistency": made.headers["Almagest-Consistency"]}
        where = f"/v1/products/{made.json()['product_id']}"
        read = await self._ask(door, "read", "GET", where, headers=fresh)
        if read is not None and read.json()["sku"] != sku:
            self._failed("read", f"{where} is another product")
        await self._ask(door, "search", "GET", "/v1/products:search", params={"text": "astrolabe", "page_size": 5})
        await self._ask(door, "history", "GET", f"{where}/history", headers=fresh)
        await self._ask(door, "who am I", "GET", "/v1/users/me")

    async def _import(self, stop: asyncio.Event) -> None:
        """One import after the other: the worker, Redis and every service behind them."""
        while not stop.is_set():
            rows = [
                {
                    "sku": f"STORM-{uuid.uuid4()}",
                    "kind": "general",
                    "name": "Imported in a storm",
                    "category": "instruments",
                    "attributes": {"brand": "Hipparchus"},
                    "price": {"amount": "1.50", "currency": "EUR"},
                }
                for _ in range(20)
            ]
            content = b"".join(orjson.dumps(row) + b"\n" for row in rows)
            async with self._client(http2=True) as door:
                kind = {"Content-Type": "application/x-ndjson"}
                taken = await self._ask(door, "import", "POST", "/v1/imports", content=content, headers=kind)
                if taken is not None:
                    await self._await_job(door, taken.json()["job_id"])
            await asyncio.sleep(0.5)

    async def _await_job(self, door: httpx.AsyncClient, job_id: str) -> None:
        until = time.monotonic() + _JOB_SECONDS
        while time.monotonic() < until:
            looked = await self._ask(door, "job", "GET", f"/v1/jobs/{job_id}")
            state = None if looked is None else looked.json()["state"]
            if state == "succeeded":
                return
            if state in {"failed", "cancelled"}:
                break
            await asyncio.sleep(0.2)
        self._failed("import", f"job {job_id} did not succeed")

    async def _feed(self, stop: asyncio.Event) -> None:
        """One change feed for all the time: it may be asked to connect again, and then goes on where it was."""
        last = ""
        while not stop.is_set():
            headers = {"Authorization": f"Bearer {self._token}", "Accept": "text/event-stream"}
            if last:
                headers["Last-Event-ID"] = last
            self.feed_connections += 1
            try:
                async with (
                    self._client(http2=True) as door,
                    door.stream("GET", "/v1/changes", headers=headers) as answer,
                ):
                    if answer.status_code != httpx.codes.OK:
                        self._failed("feed", f"{answer.status_code} {(await answer.aread())[:300]!r}")
                        await asyncio.sleep(0.5)
                        continue
                    async for line in answer.aiter_lines():
                        if line.startswith("id:"):
                            last = line[3:].strip()
                            self.feed_events += 1
            except _CUT_OFF:
                # A feed that is cut goes on from its last event: that is its contract.
                await asyncio.sleep(0.05)
