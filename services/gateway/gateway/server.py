"""The HTTP servers that the gateway can run on: Granian unless the settings say otherwise.

All three run in this process and on its one event loop. Granian's usual way, a parent that watches over worker
processes, is not taken: supervision is Kubernetes' or the local runtime's, a parent that is killed leaves a worker that
holds the port, and a process more costs memory for nothing.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Generator, Iterable
from typing import Any, cast

import structlog
from chassis.identity.certificate import is_half_written
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway.certificates import Pair
from gateway.connections import Doorkeeper, Patience
from gateway.listening import Entrance
from gateway.middleware.context import Application, Message, Receive, Scope, Send
from gateway.settings import Settings

_BACKLOG = 1024
_H2_STREAMS = 200
_LOOK_SECONDS = 1.0
_OVERLAP_SECONDS = 3.0

_logger = structlog.stdlib.get_logger(__name__)


class ServerFailed(Exception):
    """The HTTP server ended by itself."""


async def serve(application: Application, settings: Settings, stop: asyncio.Event) -> None:
    """Serve until told to stop, then finish what runs, at most for as long as the settings allow.

    Raises:
        OSError: The address is taken, or certificate or key cannot be read.
        ValueError: The key is none.
        ServerFailed: The server ended by itself.
    """
    _check(settings)
    run = {"granian": _granian, "hypercorn": _hypercorn, "uvicorn": _uvicorn}[settings.http_server]
    patience = Patience(
        settings.connection_first_seconds,
        settings.connection_idle_seconds,
        settings.connections_per_address,
        settings.trusted_proxies,
    )
    doorkeeper = Doorkeeper(application, port=address(settings)[1], patience=patience)
    watching = asyncio.create_task(doorkeeper.watch())
    try:
        await run(doorkeeper, settings, stop)
    finally:
        watching.cancel()


def address(settings: Settings) -> tuple[str, int]:
    """Where to listen.

    Raises:
        ValueError: The setting is not host:port.
    """
    host, separator, port = settings.listen.rpartition(":")
    if not separator or not port.isdecimal():
        raise ValueError(f"{settings.listen!r} is not host:port")
    return host.strip("[]"), int(port)


def _check(settings: Settings) -> None:
    """Fail with a sentence now, rather than in the depths of a server later."""
    load_pem_private_key(settings.tls_key.read_bytes(), None)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_certificate, settings.tls_key)
    host, port = address(settings)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(error.errno, f"cannot listen on {settings.listen}: {error.strerror}") from error


async def _ended(serving: "asyncio.Task[Any]", stop: asyncio.Event) -> None:
    """Wait until the server is told to stop.

    Raises:
        ServerFailed: It ended before.
    """
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done() and not stop.is_set():
            failure = ServerFailed("the HTTP server ended by itself")
            failure.__cause__ = None if serving.cancelled() else serving.exception()
            raise failure
    finally:
        stopping.cancel()


async def _renewed(settings: Settings, use: Callable[[], None]) -> None:
    """Call `use`, which raises if they do not belong together, each time certificate and key have been replaced, for
    ever.
    """

    def signature() -> tuple[tuple[int, int], ...] | None:
        try:
            both = (settings.tls_certificate.stat(), settings.tls_key.stat())
        except OSError:
            return None
        return tuple((one.st_ino, one.st_mtime_ns) for one in both)

    in_use, refused = signature(), None
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        found = signature()
        if found in (in_use, None):
            continue
        try:
            use()
        except (OSError, ValueError) as error:
            # The old one serves on. It is looked at again: one of the two may be about to be written.
            half = isinstance(error, ssl.SSLError) and is_half_written(error) and found != refused
            log = _logger.debug if half else _logger.warning
            log("the changed public certificate is not used", problem=str(error))
            refused = found
            continue
        in_use = found
        _logger.info("public certificate renewed")


class Replaceable:
    """The application as one worker has it. Once another takes its place, connections end with the answer to their next
    request: of HTTP/1.1, where a server that closes a connection between two requests may cut off one on its way.
    """

    def __init__(self, application: Application) -> None:
        self._application = application
        self.leaving = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if not self.leaving or scope.get("http_version") not in {"1.0", "1.1"}:
            await self._application(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        await self._application(scope, receive, sending)


async def _granian(application: Application, settings: Settings, stop: asyncio.Event) -> None:
    from granian import net  # noqa: PLC0415
    from granian.constants import HTTPModes, Interfaces, SSLProtocols  # noqa: PLC0415 - only the server chosen is loaded
    from granian.http import HTTP1Settings, HTTP2Settings  # noqa: PLC0415
    from granian.server.embed import Server  # noqa: PLC0415

    host, port = address(settings)
    entrance = Entrance(host, port, backlog=_BACKLOG)

    class Renewable(Server):
        """Which can take another certificate into use.

        A certificate is read when a worker starts. So a new worker takes the new connections, on a socket of its own at
        the same address. The old one has a moment for those that it has just accepted, then accepts nothing any more
        and finishes what it has, however long that takes: a change feed may last for hours. Granian would wait for
        that, and meanwhile renew nothing.
        """

        def _init_shared_socket(self) -> None:
            """Each worker has its own."""

        def _spawn_worker(self, idx: int, target: Any, callback_loader: Any) -> Any:
            # The worker closes it.
            self._shd: Any = cast("Any", net).SocketHolder(entrance.open(), False, _BACKLOG)
            own = Replaceable(callback_loader)
            worker: Any = super()._spawn_worker(idx, target, own)
            worker.application = own
            return worker

        async def _respawn_workers(
            self,
            workers: Any,
            spawn_target: Any,
            target_loader: Any,
            delay: float = 0,  # noqa: ARG002 - of seconds in which an old certificate would still be shown
        ) -> None:
            for number in workers:
                old: Any = self.wrks.pop(number)
                new = self._spawn_worker(idx=number, target=spawn_target, callback_loader=target_loader)
                new.start()
                self.wrks.insert(number, new)
                old.application.leaving = True
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_OVERLAP_SECONDS):
                        await stop.wait()
                old.terminate()
                await entrance.closed()

    server = Renewable(
        application,
        address=host,
        port=port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.auto,
        websockets=False,
        backlog=_BACKLOG,
        http1_settings=HTTP1Settings(header_read_timeout=10_000, max_buffer_size=64 * 1024),
        http2_settings=HTTP2Settings(
            max_concurrent_streams=_H2_STREAMS,
            max_headers_size=2 * settings.maximum_header_bytes,
            keep_alive_interval=20_000,
        ),
        log_enabled=False,
        ssl_cert=settings.tls_certificate,
        ssl_key=settings.tls_key,
        ssl_protocol_min=SSLProtocols.tls12,
    )
    pairs: list[Pair] = []

    def take() -> None:
        pair = Pair(settings.tls_certificate, settings.tls_key)
        granian: Any = server
        granian.ssl_ctx = (True, pair.certificate, pair.key, *granian.ssl_ctx[3:])
        pairs.append(pair)
        # A worker that is being replaced has read its own long ago.
        for old in pairs[:-3]:
            old.close()
        del pairs[:-3]

    def renew() -> None:
        take()
        server.reload()

    take()
    serving = asyncio.create_task(server.serve())
    renewing = asyncio.create_task(_renewed(settings, renew))
    try:
        await _ended(serving, stop)
    finally:
        renewing.cancel()
        server.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(settings.drain_seconds):
                await asyncio.shield(serving)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def _hypercorn(application: Application, settings: Settings, stop: asyncio.Event) -> None:
    import hypercorn.asyncio  # noqa: PLC0415
    from hypercorn.config import Config  # noqa: PLC0415

    host, port = address(settings)
    contexts: list[ssl.SSLContext] = []

    class Kept(Config):
        """Whose TLS context can be given another certificate."""

        def create_ssl_context(self) -> ssl.SSLContext | None:
            context = super().create_ssl_context()
            contexts.extend([context] if context is not None else [])
            return context

    config = Kept()
    config.bind = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}"]
    config.certfile = str(settings.tls_certificate)
    config.keyfile = str(settings.tls_key)
    config.alpn_protocols = ["h2", "http/1.1"]
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    config.graceful_timeout = settings.drain_seconds
    config.h11_max_incomplete_size = 64 * 1024
    config.h2_max_concurrent_streams = _H2_STREAMS
    config.h2_max_header_list_size = 2 * settings.maximum_header_bytes

    async def told() -> None:
        await stop.wait()

    run = cast("Any", hypercorn.asyncio).serve
    serving = asyncio.create_task(run(application, config, shutdown_trigger=told))
    renewing = asyncio.create_task(_renewed(settings, lambda: _load(settings, contexts)))
    try:
        await _ended(serving, stop)
        await serving
    finally:
        renewing.cancel()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def _uvicorn(application: Application, settings: Settings, stop: asyncio.Event) -> None:
    import uvicorn  # noqa: PLC0415

    class Server(uvicorn.Server):
        """Without signal handlers: the process has its own."""

        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None]:
            yield

    host, port = address(settings)
    config = uvicorn.Config(
        cast("Any", application),
        host=host,
        port=port,
        ssl_certfile=str(settings.tls_certificate),
        ssl_keyfile=str(settings.tls_key),
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        # Else whoever calls from loopback would choose the address that they are counted by.
        proxy_headers=False,
        timeout_graceful_shutdown=max(int(settings.drain_seconds), 1),
        h11_max_incomplete_event_size=64 * 1024,
    )
    config.load()
    server = Server(config)
    serving = asyncio.create_task(server.serve())
    contexts = [config.ssl] if config.ssl is not None else []
    renewing = asyncio.create_task(_renewed(settings, lambda: _load(settings, contexts)))
    try:
        await _ended(serving, stop)
    finally:
        renewing.cancel()
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)


def _load(settings: Settings, contexts: Iterable[ssl.SSLContext]) -> None:
    """New handshakes show the new certificate; connections that are open stay."""
    pair = Pair(settings.tls_certificate, settings.tls_key)
    for context in contexts:
        context.load_cert_chain(pair.certificate, pair.key)
    pair.close()
