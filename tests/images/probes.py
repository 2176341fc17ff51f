"""Probes, asked as a kubelet asks them."""

import http.client
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from ..helm.rendering import Document

KINDS: Final = ("startupProbe", "readinessProbe", "livenessProbe")


class Asked(NamedTuple):
    """One answer."""

    well: bool
    said: str


Execute = Callable[[Sequence[str], float], Asked]
"""Runs a program in the container, for so many seconds at most."""


class Probe:
    """One of the probes of a container.

    Attributes:
        kind: which.
        answers: all so far.
        due: when it is next asked, by the monotonic clock.
        turns: what it has said, with its thresholds, each time that was something else than before.
    """

    def __init__(self, kind: str, spec: Document, *, address: str, ports: dict[str, int], execute: Execute) -> None:
        self.kind, self._spec, self._address, self._ports, self._execute = kind, spec, address, ports, execute
        self.answers: list[Asked] = []
        self.turns: list[bool] = []
        self.due = time.monotonic() + spec.get("initialDelaySeconds", 0)
        self._same = 0

    @property
    def well(self) -> bool | None:
        """What it says now; None when it has not said anything."""
        return self.turns[-1] if self.turns else None

    def ask(self) -> None:
        """Ask once, and count the answer."""
        spec = self._spec
        answer = self._asked(spec, float(spec.get("timeoutSeconds", 1)))
        self._same = self._same + 1 if self.answers and self.answers[-1].well == answer.well else 1
        self.answers.append(answer)
        needed = spec.get("successThreshold", 1) if answer.well else spec.get("failureThreshold", 3)
        if self._same >= needed and self.well is not answer.well:
            self.turns.append(answer.well)
        self.due = time.monotonic() + spec.get("periodSeconds", 10)

    def _asked(self, spec: Document, seconds: float) -> Asked:
        match spec:
            case {"httpGet": get}:
                return self._got(get, seconds)
            case {"tcpSocket": {"port": port}}:
                try:
                    socket.create_connection((self._address, self._port(port)), seconds).close()
                except OSError as error:
                    return Asked(well=False, said=str(error))
                return Asked(well=True, said="")
            case {"exec": {"command": command}}:
                return self._execute(command, seconds)
            case _:
                raise ValueError(f"a probe that is not known here: {spec}")

    def _got(self, get: Document, seconds: float) -> Asked:
        host, port = get.get("host", self._address), self._port(get["port"])
        if get.get("scheme", "HTTP") == "HTTPS":
            # A kubelet believes any certificate.
            trusting = ssl.create_default_context()
            trusting.check_hostname = False
            trusting.verify_mode = ssl.CERT_NONE
            connection = http.client.HTTPSConnection(host, port, timeout=seconds, context=trusting)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=seconds)
        headers = {"User-Agent": "kube-probe/1.35", "Accept": "*/*", "Connection": "close"}
        headers |= {one["name"]: one["value"] for one in get.get("httpHeaders", [])}
        try:
            connection.request("GET", get.get("path", "/"), headers=headers)
            response = connection.getresponse()
            said = f"{response.status} {response.read(300).decode(errors='replace')}"
        except (OSError, http.client.HTTPException) as error:
            return Asked(well=False, said=f"{type(error).__name__}: {error}")
        finally:
            connection.close()
        return Asked(well=http.client.OK <= response.status < http.client.BAD_REQUEST, said=said)

    def _port(self, port: str | int) -> int:
        return self._ports[port] if isinstance(port, str) else port
