"""Workloads that call, each in every state that its certificate can be in, and what they are answered."""

import enum
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
from almagest_cli.local.authority import LocalAuthority
from chassis.rpc.sending import keeping_the_answer
from cryptography import x509
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2, status_pb2
from harness.running import RunningSystem

from .rpc_rows import WORKLOADS

Channels = dict[tuple[str, str, str], grpc.aio.Channel]


class Outcome(enum.Enum):
    """What becomes of a call."""

    ADMITTED = "admitted"
    PERMISSION_DENIED = "permission denied"
    UNAUTHENTICATED = "unauthenticated"
    NO_CONNECTION = "no connection"
    NOT_SERVED = "not served"


VALID = "valid"
CONDITIONS: Mapping[str, Outcome | None] = {
    VALID: None,
    "expired": Outcome.NO_CONNECTION,
    "not yet valid": Outcome.NO_CONNECTION,
    "foreign CA": Outcome.NO_CONNECTION,
    "two URI SANs": Outcome.UNAUTHENTICATED,
    "no URI SAN": Outcome.UNAUTHENTICATED,
    "another trust domain": Outcome.PERMISSION_DENIED,
    "revoked": Outcome.UNAUTHENTICATED,
    "no certificate": Outcome.NO_CONNECTION,
    "plaintext": Outcome.NO_CONNECTION,
}
"""What becomes of a call in each state, whoever calls whatever; None: as the row of the RPC says."""
_CALLER = ("CALLER_UNKNOWN", "CALLER_INVALID", "CALLER_EXPIRED", "CALLER_DENIED")


@dataclass(frozen=True)
class Answer:
    """What a call got."""

    outcome: Outcome
    code: grpc.StatusCode
    reason: str
    message: str


class Callers:
    """All callers of one system.

    Args:
        system: whose services they call, and whose authority most of them have their certificates from.
        directory: where those are kept.
    """

    def __init__(self, system: RunningSystem, directory: Path) -> None:
        self._local = system.local
        self._authority = LocalAuthority(system.local.places.authority)
        self._stranger = LocalAuthority(directory / "stranger")
        self._directory = directory
        self._bundle = self._authority.certificate_file.read_bytes()
        self._certificates: dict[tuple[str, str], tuple[bytes, bytes]] = {}
        self._channels: Channels = {}

    def revoke(self) -> None:
        """Put the serial numbers of those who are to be revoked on the deny list."""
        serials: list[str] = []
        for workload in WORKLOADS:
            chain, _ = self._certificate(workload, "revoked")
            serials.append(f"serial:{x509.load_pem_x509_certificate(chain).serial_number:x}\n")
        self._local.places.deny_list.write_text("".join(serials))

    def channel(self, workload: str, condition: str, server: str) -> grpc.aio.Channel:
        """A channel of a workload whose certificate is in that state."""
        return self.at(self._local.ports.grpc[server], workload, condition, server)

    def at(self, port: int, workload: str, condition: str, server: str) -> grpc.aio.Channel:
        """The same, to another process of a server."""
        key = (workload, condition, f"{server}:{port}")
        channel = self._channels.get(key)
        if channel is None:
            target = f"127.0.0.1:{port}"
            options = [
                ("grpc.ssl_target_name_override", f"{server}.{self._authority.trust_domain}"),
                ("grpc.use_local_subchannel_pool", 1),
            ]
            if condition == "plaintext":
                channel = grpc.aio.insecure_channel(target, options=options)
            elif condition == "no certificate":
                channel = grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(self._bundle), options=options)
            else:
                chain, private = self._certificate(workload, condition)
                credentials = grpc.ssl_channel_credentials(self._bundle, private, chain)
                channel = grpc.aio.secure_channel(target, credentials, options=options)
            self._channels[key] = channel
        return channel

    async def close(self) -> None:
        """Close all channels."""
        for channel in self._channels.values():
            await channel.close()
        self._local.places.deny_list.write_text("")

    def _certificate(self, workload: str, condition: str) -> tuple[bytes, bytes]:
        known = self._certificates.get((workload, condition))
        if known is None:
            where = self._directory / f"{workload}-{condition}".replace(" ", "-")
            authority = self._stranger if condition == "foreign CA" else self._authority
            domain, now = authority.trust_domain, datetime.now(UTC)
            uri = f"spiffe://{domain}/{workload}"
            given: dict[str, Any] = {
                "expired": {"not_before": now - timedelta(hours=2), "lifetime": timedelta(seconds=-60)},
                "not yet valid": {"not_before": now + timedelta(hours=1), "lifetime": timedelta(hours=2)},
                "two URI SANs": {"uris": [uri, f"spiffe://{domain}/operator-{uuid.uuid4().hex}"]},
                "no URI SAN": {"uris": []},
                "another trust domain": {"uris": [f"spiffe://elsewhere.internal/{workload}"]},
            }.get(condition, {})
            authority.issue(workload, directory=where, **({"lifetime": timedelta(hours=1)} | given))
            known = (where / "tls.crt").read_bytes(), (where / "tls.key").read_bytes()
            self._certificates[(workload, condition)] = known
        return known


async def call(
    channel: grpc.aio.Channel, path: str, method: MethodDescriptor | None, *, token: str = "", seconds: float = 20.0
) -> Answer:
    """Call an RPC with an empty request; of a stream, take the first answer."""
    metadata = (("txn-token", token),) if token else ()
    client_streams = method is not None and method.client_streaming
    server_streams = method is not None and method.server_streaming
    kind = f"{'stream' if client_streams else 'unary'}_{'stream' if server_streams else 'unary'}"
    make = getattr(channel, kind)(path)

    async def requests() -> AsyncIterator[bytes]:
        yield b""

    request: Any = requests() if client_streams else b""
    running = make(request, metadata=metadata, timeout=seconds)
    if client_streams:
        keeping_the_answer(running)
    try:
        if server_streams:
            await running.read()
            running.cancel()
        else:
            await running
    except grpc.aio.AioRpcError as error:
        return _answer(error)
    return Answer(Outcome.ADMITTED, grpc.StatusCode.OK, "", "")


def _answer(error: grpc.aio.AioRpcError) -> Answer:
    code = error.code()
    reason = ""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    if isinstance(details, bytes):
        for detail in status_pb2.Status.FromString(details).details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                reason = info.reason
    outcome = Outcome.ADMITTED
    if code is grpc.StatusCode.UNAVAILABLE and not reason:
        outcome = Outcome.NO_CONNECTION
    elif code is grpc.StatusCode.UNIMPLEMENTED:
        outcome = Outcome.NOT_SERVED
    elif code is grpc.StatusCode.PERMISSION_DENIED:
        outcome = Outcome.PERMISSION_DENIED
    elif code is grpc.StatusCode.UNAUTHENTICATED and (reason in _CALLER or reason.startswith(("TOKEN_", "NO_TOKEN"))):
        outcome = Outcome.UNAUTHENTICATED
    return Answer(outcome, code, reason, error.details() or "")
