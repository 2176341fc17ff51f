"""An identity from the SPIFFE Workload API, such as a SPIRE agent's socket.

The agent pushes certificates before the old ones expire. The client library (`spiffe`) reads its stream on a thread of
its own and connects again by itself; what it brings is handed to the event loop, where everything else lives.

Postgres and Redis read certificates from files. So each identity is also written to the identity directory, which
belongs on a memory file system, and is readable by the process only. Whoever reads its files sees a whole set or, for a
moment, a key without its certificate; the drivers' connections are tried again then.
"""

import asyncio
import os
import threading
from pathlib import Path

import structlog
from cryptography.hazmat.primitives import serialization
from spiffe import SpiffeId as TheirId
from spiffe import WorkloadApiClient, X509Svid
from spiffe.errors import PySpiffeError
from spiffe.workloadapi.x509_context import X509Context

from chassis.identity.certificate import InvalidIdentity
from chassis.identity.files import read_identity
from chassis.identity.present import PresentIdentity, refusals
from chassis.identity.source import Identity

_FIRST_SECONDS = 30.0
_PAUSE_SECONDS = 1.0

_logger = structlog.stdlib.get_logger(__name__)


class WorkloadApiIdentitySource(PresentIdentity):
    """The SVID that the Workload API gives the service."""

    def __init__(
        self,
        socket: str,
        trust_domain: str,
        *,
        service: str,
        directory: Path | None = None,
        first_seconds: float = _FIRST_SECONDS,
    ) -> None:
        """Wait for the first SVID.

        Args:
            socket: Where the API is, such as `unix:///run/spire/agent.sock`.
            trust_domain: Ours.
            service: Which of the SVIDs that are offered is ours: the one with this path.
            directory: Where each identity is written as files, too.
            first_seconds: How long to wait.

        Raises:
            InvalidIdentity: None that is good came in that time. The message says which was wrong with what came.
        """
        self._trust_domain = trust_domain
        self._service = service
        self._directory = directory
        self._guard = threading.Lock()
        self._came = threading.Event()
        self._newest: Identity | None = None
        self._problem = "the Workload API has answered nothing"
        self._broken = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = asyncio.Event()
        try:
            self._client = WorkloadApiClient(socket)
        except PySpiffeError as error:
            raise InvalidIdentity(f"the Workload API cannot be used: {error}") from error
        self._stream = self._client.stream_x509_contexts(self._arrived, self._failed)
        self._came.wait(first_seconds)
        if self._newest is None:
            self.close()
            raise InvalidIdentity(f"no identity from the Workload API at {socket}: {self._problem}")
        super().__init__(self._newest)

    async def watch(self, interval: float) -> None:
        """Take up each SVID as it comes; never returns. A stream that the library gave up is begun again."""
        self._loop = asyncio.get_running_loop()
        self._told.set()
        while True:
            try:
                async with asyncio.timeout(max(interval, _PAUSE_SECONDS)):
                    await self._told.wait()
            except TimeoutError:
                pass
            self._told.clear()
            with self._guard:
                newest, broken, self._broken = self._newest, self._broken, False
            if newest is not None:
                self.take(newest)
            if broken:
                self._stream.cancel()
                self._stream = self._client.stream_x509_contexts(self._arrived, self._failed)

    def close(self) -> None:
        """End the stream."""
        self._loop = None
        self._stream.cancel()
        self._client.close()

    def _arrived(self, context: X509Context) -> None:
        """On the library's thread: a new state, whole. What is missing in it has been withdrawn."""
        try:
            identity = self._identity(context)
            if self._directory is not None:
                _write(self._directory, identity)
        except (InvalidIdentity, OSError) as error:
            self._problem = str(error)
            refusals.inc()
            _logger.warning("an identity of the Workload API is not used", problem=self._problem)
            return
        with self._guard:
            self._newest = identity
        self._came.set()
        self._tell()

    def _failed(self, error: Exception) -> None:
        """On the library's thread: it has given up, as it does when a message cannot be read."""
        self._problem = str(error)
        refusals.inc()
        _logger.warning("the Workload API gives no identity", problem=self._problem)
        with self._guard:
            self._broken = True
        self._came.set()

    def _tell(self) -> None:
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._told.set)
            except RuntimeError:
                # The loop was closed meanwhile: nobody is left to be told.
                return

    def _identity(self, context: X509Context) -> Identity:
        ours = [svid for svid in context.x509_svids if _is(svid.spiffe_id, self._trust_domain, self._service)]
        if not ours:
            offered = ", ".join(str(svid.spiffe_id) for svid in context.x509_svids) or "none"
            raise InvalidIdentity(
                f"none of the SVIDs is spiffe://{self._trust_domain}/{self._service}; offered: {offered}"
            )
        svid: X509Svid = ours[0]
        bundle = context.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
        authorities = sorted(
            certificate.public_bytes(serialization.Encoding.PEM)
            for certificate in (bundle.x509_authorities if bundle is not None else ())
        )
        key = svid.private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        chain = b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in svid.cert_chain)
        return read_identity(chain, key, b"".join(authorities), trust_domain=self._trust_domain, service=self._service)


def _is(spiffe_id: TheirId, trust_domain: str, service: str) -> bool:
    return spiffe_id.trust_domain.name == trust_domain and spiffe_id.path == f"/{service}"


def _write(directory: Path, identity: Identity) -> None:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, content in (
        ("ca.crt", identity.trust_bundle),
        ("tls.key", identity.private_key),
        ("tls.crt", identity.certificate_chain),
    ):
        fresh = directory / f".{name}.{os.getpid()}"
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        fresh.replace(directory / name)
