"""A channel to another service that stays the same object while certificates come and go.

gRPC for Python cannot change the credentials of a channel. So generated stubs are built once, on a `Channel`, and each
call goes through whichever real channel is current: when the identity changes, a new one is opened, waited for and put
in place, and the old one is closed when its calls have ended.
"""

import asyncio
import contextvars
import gc
import time
import weakref
from collections.abc import Coroutine
from typing import Any, Self

import grpc
import orjson
import structlog

from chassis.errors import Unavailable
from chassis.identity.denials import DenyList
from chassis.identity.source import Identity, IdentitySource
from chassis.identity.spiffe import SpiffeId
from chassis.rpc import METADATA_BYTES
from chassis.rpc.calls import StreamMethod, UnaryMethod

_READY_SECONDS = 30.0
_PAUSE_SECONDS = 0.05
_LOOK_SECONDS = 0.5
_DRAIN_SECONDS = 30.0
_SETTLE_SECONDS = 0.2
_AHEAD_BYTES = 512 * 1024

_logger = structlog.stdlib.get_logger(__name__)


class Connection:
    """One real channel, opened with one identity, and how many calls use it."""

    def __init__(self, target: str, identity: Identity, options: list[tuple[str, Any]]) -> None:
        self.identity = identity
        self.channel = grpc.aio.secure_channel(
            target,
            grpc.ssl_channel_credentials(identity.trust_bundle, identity.private_key, identity.certificate_chain),
            options=options,
        )
        self._calls = 0
        self._streams: set[Any] = set()
        self._carried: weakref.WeakSet[Any] = weakref.WeakSet()
        self.retired = False
        self._idle = asyncio.Event()
        self._idle.set()

    def begin(self) -> None:
        """A call begins to use it."""
        self._calls += 1
        self._idle.clear()

    def end(self) -> None:
        """A call has ended."""
        self._calls -= 1
        if self._calls == 0:
            self._idle.set()

    def carries(self, stream: Any) -> None:
        """A streaming call runs on it, which may go on for ever."""
        self._streams.add(stream)
        self._carried.add(stream)
        stream.add_done_callback(self._streams.discard)

    async def retire(self) -> None:
        """Close when no call uses it any more, or after a while at the latest. Streams are ended before the certificate
        expires, since the other side ends them then.
        """
        self.retired = True
        try:
            if not await self._idle_within(min(_DRAIN_SECONDS, self.proven_seconds())):
                _logger.info("streams on a retired connection are ended", streams=len(self._streams))
                self._end_streams()
                if not await self._idle_within(_DRAIN_SECONDS):
                    _logger.warning("calls on a retired connection are ended", calls=self._calls)
        finally:
            await self.channel.close()
        await self._let_go()

    async def abandon(self) -> None:
        """Close at once, whatever runs on it."""
        self._end_streams()
        await self.channel.close()
        await self._let_go()

    def _end_streams(self) -> None:
        for stream in list(self._streams):
            stream.cancel()

    async def _let_go(self) -> None:
        """See that nobody knows its calls any more. As long as the object of one lives, gRPC's core (1.85) keeps the
        closed channel, and makes its connection anew whenever the other side ends it, with a certificate that has
        expired. An exception and a frame that know each other are enough for that.
        """
        await asyncio.sleep(_SETTLE_SECONDS)
        if self._carried:
            _logger.info("calls of a closed connection are collected", calls=len(self._carried))
            gc.collect()

    async def _idle_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def proven_seconds(self) -> float:
        """How long the certificate is still good, less a margin."""
        identity = self.identity
        margin = min(5.0, (identity.not_after - identity.not_before).total_seconds() / 10)
        return max(0.0, identity.not_after.timestamp() - time.time() - margin)


class Channel(grpc.aio.Channel):
    """The way to one service: deadlines, identity, person, trace and problems on each call.

    A failed call raises `RemoteProblem`. Calls to a method in `retryable` (full paths) are tried up to three times when
    the service cannot be reached; name only methods that may take effect twice.
    """

    def __init__(
        self,
        target: str,
        *,
        service: str,
        identity: IdentitySource,
        default_timeout: float = 5.0,
        retryable: frozenset[str] = frozenset(),
        max_message_bytes: int = 8 * 1024 * 1024,
        denials: DenyList | None = None,
    ) -> None:
        self._target = target
        self._source = identity
        self._tasks: set[asyncio.Task[None]] = set()
        self._retiring: set[Connection] = set()
        self._closed = False
        self.rotated = False
        """Whether our certificate has changed since the channel was made."""
        self.service = service
        self.retryable = retryable
        self.default_timeout = default_timeout
        self._spiffe_id = SpiffeId.of(service, identity.current().spiffe_id.trust_domain)
        self._options = _options(self._spiffe_id, retryable, max_message_bytes)
        self._connection = self._open(identity.current())
        self._swapping: asyncio.Task[None] | None = None
        self._denials = denials or DenyList()
        self._believed = not self._denials.denies(self._spiffe_id)
        self._unsubscribe = (identity.subscribe(self._identity_changed), self._denials.subscribe(self._denials_changed))

    @property
    def connection(self) -> Connection:
        """The present connection.

        Raises:
            Unavailable: The channel is closed, or the service is denied.
        """
        if self._closed:
            raise Unavailable("The service is shutting down.")
        if not self._believed:
            raise Unavailable(f"The service {self.service} is denied.", reason="SERVICE_DENIED")
        return self._connection

    @property
    def renewing(self) -> bool:
        """Whether certificates change while we look, or must, since ours has expired."""
        return self.rotated or self._connection.identity.not_after.timestamp() <= time.time()

    def _open(self, identity: Identity) -> Connection:
        return Connection(self._target, identity, self._options)

    def _identity_changed(self, _identity: Identity) -> None:
        self.rotated = True
        if self._swapping is None and not self._closed:
            self._swapping = self.spawn(self._swap())

    def _denials_changed(self) -> None:
        """Of a server gRPC for Python tells us nothing but that it has the name that we asked for: so it is the id that
        can be denied here, and not the serial number.
        """
        believed = not self._denials.denies(self._spiffe_id)
        if believed == self._believed or self._closed:
            return
        self._believed = believed
        if not believed:
            for connection in (self._connection, *self._retiring):
                self.spawn(connection.abandon())
        elif self._swapping is None:
            self.spawn(self._connection.abandon())
            self._connection = self._open(self._source.current())

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run work beside the calls, until the channel is closed, in a context that belongs to no call."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _swap(self) -> None:
        try:
            while self._connection.identity is not (identity := self._source.current()):
                fresh = self._open(identity)
                try:
                    # The old one serves as long as it is good: a service that is busy takes its time to greet us.
                    async with asyncio.timeout(min(_READY_SECONDS, self._connection.proven_seconds())):
                        await fresh.channel.channel_ready()
                except TimeoutError:
                    # It is not there at the moment. The new identity is right all the same, and the old one about to
                    # expire.
                    pass
                except asyncio.CancelledError:
                    await fresh.channel.close()
                    raise
                if not self._believed:
                    await fresh.channel.close()
                    return
                old, self._connection = self._connection, fresh
                self.spawn(self._retire(old))
        finally:
            self._swapping = None

    async def renewed(self, within: float) -> None:
        """Wait for what may let a call pass that a certificate has held up: our next one, or the other side's."""
        self._source.refresh()
        swapping = self._swapping
        if swapping is not None:
            await asyncio.wait({swapping}, timeout=within)
        else:
            await asyncio.sleep(min(_PAUSE_SECONDS, within))

    async def _retire(self, connection: Connection) -> None:
        self._retiring.add(connection)
        try:
            await connection.retire()
        finally:
            self._retiring.discard(connection)

    async def close(self, grace: float | None = None) -> None:
        """End all calls, after `grace` seconds if given, and close every connection."""
        if self._closed:
            return
        self._closed = True
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._connection.channel.close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 - gRPC's signature
        """The state of the present connection."""
        return self.connection.channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the present connection leaves a state."""
        await self.connection.channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until the service can be reached."""
        while True:
            connection = self.connection
            connection.begin()
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    return await connection.channel.channel_ready()
            except TimeoutError:
                # Another one may have taken its place.
                continue
            finally:
                connection.end()

    def unary_unary(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,  # noqa: FBT001, FBT002 - gRPC's signature
    ) -> Any:
        """What generated stubs call a unary method by."""
        return UnaryMethod(self, "unary_unary", method, request_serializer, response_deserializer)

    def stream_unary(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,  # noqa: FBT001, FBT002
    ) -> Any:
        """What generated stubs call a client-streaming method by; it takes an iterator of requests."""
        return UnaryMethod(self, "stream_unary", method, request_serializer, response_deserializer)

    def unary_stream(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,  # noqa: FBT001, FBT002
    ) -> Any:
        """What generated stubs call a server-streaming method by."""
        return StreamMethod(self, "unary_stream", method, request_serializer, response_deserializer)

    def stream_stream(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool = False,  # noqa: FBT001, FBT002
    ) -> Any:
        """What generated stubs call a method by that streams both ways."""
        return StreamMethod(self, "stream_stream", method, request_serializer, response_deserializer)


def _options(spiffe_id: SpiffeId, retryable: frozenset[str], max_message_bytes: int) -> list[tuple[str, Any]]:
    return [
        # The identity that the server must prove: gRPC for Python looks at DNS names only, and this is the image of the
        # SPIFFE id.
        ("grpc.ssl_target_name_override", spiffe_id.dns_name),
        # Connections are never shared between channels, else a new channel would go on with the old certificate.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # Not a pause, whatever its name: how long a connection may take to be made, TLS included. A machine that has
        # too much to do needs more than the quarter of a second below, and would never be connected again.
        ("grpc.min_reconnect_backoff_ms", 5_000),
        # A service that comes back is found again at once; one try in a quarter of a second costs nothing.
        ("grpc.max_reconnect_backoff_ms", 250),
        # And so is one that is elsewhere: left to itself, gRPC asks for the addresses of a name no more than twice a
        # minute, while those that it has lead nowhere.
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),
        # What a stream may send ahead of who reads it. Left to itself, gRPC raises this to many megabytes for each of
        # the streams on a fast connection, whose readers may be slow.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", _AHEAD_BYTES),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.enable_retries", 1),
        ("grpc.service_config", _service_config(retryable)),
    ]


def _service_config(retryable: frozenset[str]) -> str:
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if retryable:
        names = [path.lstrip("/").partition("/") for path in sorted(retryable)]
        config["methodConfig"] = [
            {
                "name": [{"service": service, "method": method} for service, _, method in names],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
        # A budget: when a tenth of the calls fail, retries stop adding to the load of a service that is down.
        config["retryThrottling"] = {"maxTokens": 10, "tokenRatio": 0.1}
    return orjson.dumps(config).decode()
