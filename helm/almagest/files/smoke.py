# ruff: noqa: INP001 - a file of the chart, no package
"""What `helm test` runs, in the gateway's image with nothing but the standard library: the door as a client sees it.

With EMAIL and PASSWORD it also logs in, creates a product (the same each time, which changes nothing) and reads it,
which takes all six services but the worker.
"""

import http.client
import json
import os
import socket
import ssl
import sys
import time
from typing import Any

ADDRESS, _, PORT = os.environ["ADDRESS"].rpartition(":")
HOST = os.environ["HOST"]
CONTEXT = ssl.create_default_context(cafile=os.environ.get("CA"))
SECONDS = 60.0


class Door(http.client.HTTPSConnection):
    """A connection to the Service, where the door shows the name by which clients call it."""

    def connect(self) -> None:
        """Connect, and see that it is who it should be."""
        plain = socket.create_connection((ADDRESS, int(PORT)), self.timeout)
        self.sock = CONTEXT.wrap_socket(plain, server_hostname=HOST)


def ask(
    method: str, path: str, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of an answer."""
    door = Door(HOST, timeout=15)
    try:
        data = None if body is None else json.dumps(body)
        door.request(method, path, body=data, headers={"Content-Type": "application/json", **(headers or {})})
        answer = door.getresponse()
        content = answer.read()
    finally:
        door.close()
    told = {name.lower(): value for name, value in answer.getheaders()}
    return answer.status, told, json.loads(content) if content else None


def expect(what: str, found: object, wanted: object) -> None:
    """Say what was seen, and end when it is not what was to be."""
    ok = found == wanted
    sys.stdout.write(f"{'ok  ' if ok else 'FAIL'} {what}: {found}\n")
    if not ok:
        sys.exit(f"{what}: expected {wanted}")


def ready() -> int:
    """The status of /readyz, when it is 200 or the time is over."""
    until = time.monotonic() + SECONDS
    while True:
        try:
            status = ask("GET", "/readyz")[0]
        except OSError as error:
            status, reason = 0, error
            if time.monotonic() > until:
                sys.exit(f"the door cannot be reached: {reason}")
        if status == 200 or time.monotonic() > until:  # noqa: PLR2004
            return status
        time.sleep(1)


def main() -> None:
    """Go through all of it."""
    expect("the door is ready", ready(), 200)
    status, headers, problem = ask("GET", "/v1/products")
    expect("strangers are refused", (status, headers["content-type"]), (401, "application/problem+json"))
    expect("and told where the trace is", "trace-id" in headers and problem["status"] == status, True)
    if "EMAIL" not in os.environ:
        return
    session = {"email": os.environ["EMAIL"], "password": os.environ["PASSWORD"]}
    status, _, opened = ask("POST", "/v1/sessions", session)
    expect("the first admin logs in", status, 201)
    bearer = {"Authorization": f"Bearer {opened['access_token']}"}
    product = {
        "sku": "HELM-TEST",
        "kind": "general",
        "name": "What helm test creates",
        "text": "",
        "category": "tests",
        "attributes": {"brand": "Almagest"},
        "reason": "helm test",
    }
    status, headers, _ = ask("POST", "/v1/products", product, bearer)
    expect("a product is created, or there already", status in {200, 201}, True)
    fresh = bearer | {"Almagest-Consistency": headers["almagest-consistency"]}
    status, _, found = ask("GET", "/v1/products/sku:HELM-TEST", headers=fresh)
    expect("it is read as it was written", (status, found["name"]), (200, product["name"]))
    expect("jobs are listed", ask("GET", "/v1/jobs", headers=bearer)[0], 200)


if __name__ == "__main__":
    main()
