"""Takes a rotation of the local authority from step to step, never ahead of what the running services know.

Each service tells in its metrics which trust bundle it has taken into use and who issued the certificate that it shows.
A step waits until all that run have said so, and for the propagation time besides, within which whatever reads the
files for each connection (drivers of Postgres and Redis) has read them. A process that is asked in vain is not waited
for for ever: the old authority would expire meanwhile.
"""

import hashlib
import http.client
import re
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
from cryptography.x509.oid import NameOID

from almagest_cli.local.authority import LocalAuthority
from almagest_cli.local.layout import GATEWAY, WORKLOADS, Places
from almagest_cli.local.trust import ACTIVATED, PUBLISHED, TAINTED

_ASK_SECONDS = 2.0
_IN_USE = re.compile(rb'almagest_identity_info\{bundle="([0-9a-f]+)",issuer="([^"]*)",serial="([0-9a-f]+)"\} 1')


class InUse:
    """What the processes of a local system say of the identities that they use."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def each(self) -> Iterator[tuple[str, str, str, str] | None]:
        """Name, bundle, issuer and serial number for each process that runs; None for one that gives no answer."""
        try:
            ports: dict[str, Any] = orjson.loads(self._places.description.read_bytes())["ports"]
        except (OSError, ValueError, KeyError):
            return
        processes = {GATEWAY: ports["gateway"], **ports["http"]}
        # All at once: a certificate may live for less than all of them take to answer one after the other.
        with ThreadPoolExecutor(len(processes)) as asking:
            answers = list(asking.map(self._asked, processes.keys(), processes.values()))
        for name, metrics in zip(processes, answers, strict=True):
            if metrics is None:
                continue
            found = _IN_USE.search(metrics)
            if found is None:
                yield None
            else:
                bundle, issuer, serial = (part.decode() for part in found.groups())
                yield name, bundle, issuer, serial

    def _asked(self, name: str, port: int) -> bytes | None:
        """Its metrics; None when it does not run, and nothing when it does not answer."""
        try:
            return self._metrics(name, port)
        except ConnectionRefusedError:
            return None
        except (OSError, http.client.HTTPException):
            return b""

    def _metrics(self, name: str, port: int) -> bytes:
        if name == GATEWAY:
            context = ssl.create_default_context(cafile=self._places.ca)
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                "localhost", port, timeout=_ASK_SECONDS, context=context
            )
        else:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ASK_SECONDS)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read()
        finally:
            connection.close()


class Rotation:
    """The rotation of one authority."""

    def __init__(self, authority: LocalAuthority, places: Places) -> None:
        self._authority = authority
        self._in_use = InUse(places)

    def begin(self) -> None:
        """Begin one, unless one is under way."""
        with self._authority.alone():
            self._authority.trust.refresh()
            self._authority.trust.begin()
            self._authority.publish()

    def is_due(self) -> bool:
        """Whether the authority is in the second half of its life."""
        trust = self._authority.trust
        trust.refresh()
        return not trust.step and trust.is_due()

    def advance(self) -> str | None:
        """Take the next step if everybody has followed the last one; answers the step, empty at the end, None when it
        was not time.
        """
        trust = self._authority.trust
        trust.refresh()
        step, since = trust.step, trust.since
        waited = time.time() - since
        lifetimes = self._authority.lifetimes
        if not step or waited < lifetimes.propagation.total_seconds():
            return None
        if not self._followed(step) and waited < lifetimes.patience.total_seconds():
            return None
        with self._authority.alone():
            trust.refresh()
            if (trust.step, trust.since) != (step, since):
                return None
            now = trust.next_step()
            self._authority.publish()
            if not now:
                trust.forget_revoked()
        if now == TAINTED:
            self._authority.renew(WORKLOADS)
        return now

    def _followed(self, step: str) -> bool:
        """Whether each process that runs uses what the step has brought."""
        authority = self._authority
        bundle = hashlib.sha256(authority.trust.bundle()).hexdigest()
        issuer = str(authority.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        wanted: dict[str, Callable[[str, str], bool]] = {
            PUBLISHED: lambda trusted, _by: trusted == bundle,
            ACTIVATED: lambda trusted, _by: trusted == bundle,
            TAINTED: lambda trusted, by: trusted == bundle and by == issuer,
        }
        return all(said is not None and wanted[step](said[1], said[2]) for said in self._in_use.each())
