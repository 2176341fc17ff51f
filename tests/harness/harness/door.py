"""The gateway as an end-to-end test sees it: an HTTP client that is logged in, and polls with deadlines instead of sleeping blindly."""

import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx
import orjson

from harness.running import Reached

_POLL_SECONDS = 0.05
_ENDED = frozenset({"succeeded", "failed", "cancelled"})

Document = dict[str, Any]


class Door:
    """A person at the gateway.

    Args:
        url: the gateway's base URL.
        ca: the certificate authority to trust.
        email: who logs in.
        password: with what.
    """

    def __init__(self, url: str, ca: Path, *, email: str, password: str) -> None:
        self._email, self._password = email, password
        self.http = httpx.Client(
            base_url=url, verify=ssl.create_default_context(cafile=str(ca)), http2=True, timeout=30
        )
        self._renew_at = 0.0

    @classmethod
    def to(cls, system: Reached) -> Self:
        """The first admin at the gateway of a system."""
        return cls(system.url, system.ca, email=system.admin_email, password=system.admin_password)

    def __enter__(self) -> Self:
        """Log in, so that `http` can be used as it is for the first minutes."""
        self.call("GET", "/v1/users/me")
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def call(self, method: str, path: str, *, within: float = 60, **arguments: Any) -> httpx.Response:
        """The answer to a request, asked again while the system has lost a process and says so (502, 503, 504, or no connection)."""
        deadline = time.monotonic() + within
        while True:
            try:
                self._log_in()
                response = self.http.request(method, path, **arguments)
                if response.status_code not in {502, 503, 504}:
                    return response
                problem = response.text
            except httpx.TransportError as error:
                problem = repr(error)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{method} {path} was not answered within {within} s: {problem}")
            time.sleep(_POLL_SECONDS)

    def get(self, path: str, **arguments: Any) -> Document:
        """The JSON of a GET that must succeed."""
        response = self.call("GET", path, **arguments)
        assert response.is_success, response.text
        return response.json()

    def await_that(self, path: str, holds: Callable[[Document], bool], *, within: float = 60) -> Document:
        """The JSON of a GET, once the condition holds."""
        deadline = time.monotonic() + within
        while not holds(document := self.get(path)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {within} s {path} is {document}")
            time.sleep(_POLL_SECONDS)
        return document

    def _log_in(self) -> None:
        if time.monotonic() < self._renew_at:
            return
        response = self.http.post("/v1/sessions", json={"email": self._email, "password": self._password})
        if response.status_code >= 500:
            raise httpx.ReadError(response.text)
        assert response.status_code == httpx.codes.CREATED, response.text
        self.http.headers["Authorization"] = f"Bearer {response.json()['access_token']}"
        self._renew_at = time.monotonic() + 300

    def submit_import(self, rows: Sequence[Mapping[str, Any]], **parameters: str) -> Document:
        """The job of an import of the rows as NDJSON."""
        body = b"".join(orjson.dumps(row) + b"\n" for row in rows)
        response = self.call(
            "POST", "/v1/imports", params=parameters, content=body, headers={"Content-Type": "application/x-ndjson"}
        )
        assert response.status_code == httpx.codes.ACCEPTED, response.text
        return response.json()

    def await_job(self, job_id: str, until: Callable[[Document], bool], *, within: float = 120) -> Document:
        """The job, once the condition holds or it has ended."""
        return self.await_that(f"/v1/jobs/{job_id}", lambda job: until(job) or job["state"] in _ENDED, within=within)

    def await_end(self, job_id: str, *, within: float = 120) -> Document:
        """The job once it has ended."""
        return self.await_job(job_id, lambda _: False, within=within)

    def items(self, path: str, **parameters: Any) -> Iterator[Document]:
        """All items of a collection, page by page."""
        headers = parameters.pop("headers", {})
        while True:
            page = self.get(path, params={"page_size": 200, **parameters}, headers=headers)
            yield from page["items"]
            if page["next_cursor"] is None:
                return
            parameters["cursor"] = page["next_cursor"]
