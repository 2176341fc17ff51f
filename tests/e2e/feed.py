"""What tests of the change feed share: a follower like a browser, and what was told."""

import random
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
from harness.door import Door
from harness.running import RunningSystem


def car(sku: str, **more: Any) -> dict[str, Any]:
    attributes = {"make": "Volvo", "model": "V60", "model_year": 2026}
    return {"sku": sku, "kind": "car", "name": sku, "category": "feed/cars", "attributes": attributes} | more


class Follower(threading.Thread):
    """Follows the feed as a browser would: it comes again with the last id that it saw. It leaves by itself now and then."""

    def __init__(self, system: RunningSystem, *, seed: int | None, **parameters: Any) -> None:
        super().__init__(daemon=True)
        self._door = Door.to(system)
        # Over HTTP/2 httpx leaves a stream without telling the server.
        tls = ssl.create_default_context(cafile=str(system.ca))
        self._http = httpx.Client(base_url=system.url, verify=tls, timeout=30)
        self._parameters = {"after": "now"} | parameters
        self._random = None if seed is None else random.Random(seed)  # noqa: S311 - no secret
        self._last: str | None = None
        self._told_to_end = threading.Event()
        self.ready = threading.Event()
        self.changes: list[dict[str, Any]] = []
        self.heard_at: dict[tuple[str, int], float] = {}
        self.connections = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._told_to_end.is_set():
                try:
                    self._follow()
                except httpx.TransportError:
                    time.sleep(0.02)
        except BaseException as failure:  # noqa: BLE001 - the test looks at it
            self.failure = failure

    def _follow(self) -> None:
        self._door.call("GET", "/v1/users/me")
        headers = {"Authorization": self._door.http.headers["Authorization"]}
        if self._last is not None:
            headers["Last-Event-ID"] = self._last
        until = None if self._random is None else self._random.randrange(1, 40)
        with self._http.stream("GET", "/v1/changes", params=self._parameters, headers=headers) as answer:
            if answer.status_code in (429, 502, 503, 504):
                return
            assert answer.status_code == 200, answer.read()
            self.connections += 1
            for fields in blocks(answer.iter_lines()):
                # What is cut off in its middle never ended with an empty line, and was not seen.
                self._last = fields.get("id", self._last)
                self.ready.set()
                if fields.get("event") == "change":
                    change = orjson.loads(fields["data"])
                    self.heard_at[change["sku"], change["revision"]] = time.monotonic()
                    self.changes.append(change)
                    if until is not None and (until := until - 1) <= 0:
                        return
                if self._told_to_end.is_set():
                    return

    def end(self) -> None:
        """Let it end at the next that it hears, if only that nothing has happened."""
        self._told_to_end.set()

    def stop(self) -> None:
        self.end()
        self.join(30)
        assert not self.is_alive()
        self._door.http.close()
        self._http.close()
        assert self.failure is None, self.failure


def blocks(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        else:
            yield fields
            fields = {}


def revisions(changes: list[dict[str, Any]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for change in changes:
        found[change["sku"]].append(change["revision"])
    return dict(found)


def recorded(door: Door, **parameters: Any) -> list[dict[str, Any]]:
    """All that the feed tells of what is recorded."""
    asked = {"after": "start", "follow": "false"} | parameters
    answer = door.call("GET", "/v1/changes", params=asked, headers={"Accept": "application/x-ndjson"})
    assert answer.status_code == 200, answer.text
    return [orjson.loads(line) for line in answer.text.splitlines() if line]
