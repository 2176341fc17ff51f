"""The gRPC server of a service: mutual TLS with certificates that change, health, reflection, limits and a way out that
loses no call.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import grpc
import structlog
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health as untyped_health
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from chassis.errors import ErrorTable
from chassis.identity.denials import DenyList
from chassis.identity.source import Identity, IdentitySource
from chassis.policy import CHASSIS_POLICY, HEALTH, REFLECTION, Policy, complete
from chassis.refusals import Refusals
from chassis.rpc import METADATA_BYTES
from chassis.rpc.interceptor import ChassisInterceptor
from chassis.settings import ServiceSettings
from chassis.tokens import TokenVerifier

Servicer = tuple[str, Callable[[Any, grpc.aio.Server], None], object]

health_module: Any = untyped_health  # whose stubs lack `aio`

_KEEP_ALIVE_SECONDS = 30
# What runs on a connection that is too old may finish. Streams that would not are ended when their caller's certificate
# expires, by `chassis.rpc.connections`.
_GRACE_SECONDS = 30.0
_STUCK_SECONDS = 10.0

_logger = structlog.stdlib.get_logger(__name__)


def descriptors_of(servicers: Iterable[Servicer]) -> list[ServiceDescriptor]:
    """The descriptors of services, by the full names under which their generated code has registered them."""
    pool = descriptor_pool.Default()
    return [pool.FindServiceByName(name) for name, _, _ in servicers]


def server_credentials(source: IdentitySource) -> grpc.ServerCredentials:
    """Mutual TLS with the identity as of each handshake. Clients must show a certificate of the trust bundle."""

    def configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(identity.private_key, identity.certificate_chain)], root_certificates=identity.trust_bundle
        )

    initial = source.current()
    in_use = initial

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        # On a thread of gRPC's, for each handshake; None means that nothing has changed.
        nonlocal in_use
        identity = source.current()
        if identity is in_use:
            return None
        in_use = identity
        return configuration(identity)

    return grpc.dynamic_ssl_server_credentials(
        configuration(initial),
        cast("Callable[[], grpc.ServerCertificateConfiguration]", fetch),  # the stubs do not know of None
        require_client_authentication=True,
    )


class RpcServer:
    """A server with its door, its health and its way out."""

    def __init__(
        self,
        settings: ServiceSettings,
        identity: IdentitySource,
        *,
        servicers: Sequence[Servicer],
        policy: Policy,
        errors: ErrorTable,
        verifier: TokenVerifier,
        denials: DenyList | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        """Bind the port that the settings name.

        Raises:
            PolicyIncomplete: A method has no row, or a row no method.
            OSError: The port cannot be bound.
        """
        complete(policy, descriptors_of(servicers))
        self._names = tuple(name for name, _, _ in servicers)
        self._drain_seconds = settings.drain_seconds
        self._interceptor = ChassisInterceptor(
            trust_domain=settings.trust_domain,
            policy={**CHASSIS_POLICY, **policy},
            verifier=verifier,
            errors=errors,
            denials=denials,
            refusals=refusals,
        )
        self._server = grpc.aio.server(
            interceptors=(self._interceptor,),
            options=_options(identity.current(), settings),
            maximum_concurrent_rpcs=settings.maximum_concurrent_rpcs,
        )
        for _, add, servicer in servicers:
            add(servicer, self._server)
        self._health: Any = health_module.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((*self._names, HEALTH, REFLECTION), self._server)
        try:
            self.port = self._server.add_secure_port(settings.listen, server_credentials(identity))
        except RuntimeError as error:
            raise OSError(f"cannot listen on {settings.listen}") from error
        self._interceptor.connections.port = self.port

    async def start(self) -> None:
        """Accept calls."""
        await self._say(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.start()

    async def watch(self) -> None:
        """End what callers have open who are believed no more; never returns."""
        await self._interceptor.connections.watch()

    async def serving(self) -> None:
        """Say SERVING to who asks after our health."""
        await self._say(health_pb2.HealthCheckResponse.SERVING)

    async def not_serving(self) -> None:
        """Say NOT_SERVING, while still serving: the first step of leaving."""
        await self._say(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def stop(self) -> None:
        """Accept nothing new, send endless streams elsewhere, and give what runs its time to finish."""
        self._interceptor.drain()
        stopping = asyncio.create_task(self._server.stop(self._drain_seconds))
        _, left = await asyncio.wait({stopping}, timeout=self._drain_seconds + _STUCK_SECONDS)
        if left:
            # gRPC waits for its last call without end. Whoever closes what calls stand on goes on without it.
            _logger.error("the server does not end", calls=[str(task.get_coro()) for task in asyncio.all_tasks()][:50])
            return
        await stopping
        await asyncio.sleep(0)

    async def _say(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", *self._names):
            await self._health.set(name, status)


def _options(identity: Identity, settings: ServiceSettings) -> list[tuple[str, Any]]:
    lifetime = (identity.not_after - identity.not_before).total_seconds()
    age = max(min(lifetime / 4, settings.connection_seconds or lifetime), 1.0)
    return [
        # Without this, two processes would share a port in silence.
        ("grpc.so_reuseport", 0),
        ("grpc.max_connection_age_ms", int(age * 1000)),
        ("grpc.max_connection_age_grace_ms", int(_GRACE_SECONDS * 1000)),
        ("grpc.keepalive_time_ms", _KEEP_ALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.max_metadata_size", METADATA_BYTES),
    ]
