"""A process: from its environment to serving, and from SIGTERM to a clean end, the same for every service."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import structlog
import uvloop
from pydantic import ValidationError

from chassis.errors import ErrorTable
from chassis.http import HttpSide, Probe, Readiness
from chassis.identity.certificate import InvalidIdentity
from chassis.identity.denials import DenyList, InvalidDenyList
from chassis.identity.sources import identity_source
from chassis.policy import Person, Policy, PolicyIncomplete
from chassis.refusals import Refusal, Refusals, tell
from chassis.revocations import Revocations, watch
from chassis.rpc.channel import Channel
from chassis.rpc.health import OwnHealth
from chassis.rpc.server import RpcServer
from chassis.settings import DatabaseSettings, ServiceSettings
from chassis.telemetry.logging import configure_logging
from chassis.telemetry.tracing import configure_tracing, shutdown_tracing
from chassis.tokens import TokenVerifier

Settings = TypeVar("Settings", bound=ServiceSettings)
Task = Callable[[], Coroutine[Any, Any, None]]
FetchJwks = Callable[[], Awaitable[bytes]]
Command = Callable[[Any, list[str]], Awaitable[int]]
Tool = Callable[[list[str]], Awaitable[int]]

_USAGE_ERROR = 2
_AGAIN_SECONDS = 5.0
_GC_THRESHOLD = (50_000, 20, 20)
_GET_JWKS = "/almagest.auth.v1.AuthService/GetJwks"

_logger = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class Assembly:
    """What a service's bootstrap puts together: all that the chassis needs to serve it."""

    servicers: Sequence[tuple[str, Callable[[Any, Any], None], object]]
    """The full name of each service, the generated `add_...Servicer_to_server`, and the servicer."""
    policy: Policy
    errors: ErrorTable
    tasks: Sequence[Task] = ()
    """Work beside the calls. One that ends or fails before the process does takes the process down."""
    probes: Mapping[str, Probe] = field(default_factory=dict[str, Probe])
    """What must pass for the service to be ready; each raises when it does not."""


class CannotStart(Exception):
    """Something about the place that the process runs in is not as it must be. The message says what, to an operator
    who knows nothing of the code.
    """


class BackgroundTaskEnded(Exception):
    """A background task ended while it was needed."""


class Bound(NamedTuple):
    """Where a service listens."""

    grpc_port: int
    http_port: int


class Chassis(Generic[Settings]):
    """What a bootstrap is given: who we are, how to verify people, and the way to other services."""

    def __init__(self, service: str, settings: Settings) -> None:
        """Read the identity.

        Raises:
            InvalidIdentity: There is no valid identity of the service.
            InvalidDenyList: The deny list cannot be read.
        """
        self.service = service
        self.settings = settings
        self.denials = DenyList(settings.deny_list)
        self.identity = identity_source(settings, service)
        self._channels: list[Channel] = []
        self._fetch_jwks: FetchJwks | None = None
        self._auth_stub: Any = None
        self.revocations = Revocations()
        self.refusals = Refusals()
        self.verifier = TokenVerifier(
            trust_domain=settings.trust_domain,
            fetch_jwks=self._jwks,
            revocations=self.revocations,
            refusals=self.refusals,
        )

    @classmethod
    @asynccontextmanager
    async def open(cls, service: str, settings: Settings) -> AsyncGenerator[Chassis[Settings]]:
        """A chassis without a gRPC server: identity and revocations that are watched, channels and traces."""
        chassis = cls(service, settings)
        configure_tracing(settings, service)
        watching = [
            asyncio.create_task(chassis.identity.watch(settings.identity_poll_seconds), name="identity"),
            asyncio.create_task(chassis.denials.watch(), name="deny list"),
        ]
        if settings.auth_target is not None:
            watching.append(asyncio.create_task(chassis.watch_revocations(), name="revocations"))
        for task in watching:
            task.add_done_callback(_end_process_unless_cancelled)
        try:
            yield chassis
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
            await chassis.close()
            await asyncio.to_thread(shutdown_tracing)

    def channel(
        self, service: str, *, retryable: frozenset[str] = frozenset(), default_timeout: float = 5.0
    ) -> Channel:
        """A channel to another service, closed when the process ends.

        Raises:
            ValueError: The settings do not say where the service is.
        """
        field_name = f"{service.replace('-', '_')}_target"
        target: str | None = getattr(self.settings, field_name, None)
        if not target:
            raise ValueError(f"ALMAGEST_{field_name.upper()} is not set")
        return self._channel(target, service, retryable=retryable, default_timeout=default_timeout)

    def own_channel(self, port: int) -> Channel:
        """A channel to the server of this process, as others have one."""
        host = self.settings.listen.rpartition(":")[0]
        host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
        return self._channel(f"{host}:{port}", self.service, retryable=frozenset(), default_timeout=2.0)

    def _channel(self, target: str, service: str, *, retryable: frozenset[str], default_timeout: float) -> Channel:
        channel = Channel(
            target,
            service=service,
            identity=self.identity,
            default_timeout=default_timeout,
            retryable=retryable,
            max_message_bytes=self.settings.max_message_bytes,
            denials=self.denials,
        )
        self._channels.append(channel)
        return channel

    def verify_with(self, fetch_jwks: FetchJwks) -> None:
        """Take the keys for people's tokens from elsewhere than the auth service; revocations are then told to
        `revocations` by whoever calls this.
        """
        self._fetch_jwks = fetch_jwks

    def hears_revocations(self, policy: Policy) -> bool:
        """Whether people are verified here, by tokens of the auth service."""
        people = any(rule.person is not Person.NONE for rule in policy.values())
        return people and self._fetch_jwks is None and self.settings.auth_target is not None

    async def watch_revocations(self) -> None:
        """Hear from the auth service what tokens are not good any more, for ever."""
        from almagest.auth.v1 import auth_pb2  # noqa: PLC0415 - see `_auth`

        request = auth_pb2.WatchRevocationsRequest()
        await watch(self.revocations, lambda: self._auth().WatchRevocations(request))

    async def tell_refusals(self) -> None:
        """Tell the auth service whom we have refused, for its audit, for ever."""
        from almagest.auth.v1 import audit_pb2, audit_pb2_grpc  # noqa: PLC0415 - see `_auth`

        stub: Any = audit_pb2_grpc.AuditServiceStub(self.channel("auth"))

        async def report(refusals: Sequence[Refusal]) -> None:
            denials = [
                audit_pb2.Denial(caller=one.caller, method=one.method, reason=one.reason, count=one.count)
                for one in refusals
            ]
            await stub.ReportDenials(audit_pb2.ReportDenialsRequest(denials=denials))

        await tell(self.refusals, report)

    async def _jwks(self) -> bytes:
        if self._fetch_jwks is not None:
            return await self._fetch_jwks()
        from almagest.auth.v1 import auth_pb2  # noqa: PLC0415 - see `_auth`

        answer = await self._auth().GetJwks(auth_pb2.GetJwksRequest())
        return bytes(answer.jwks)

    def _auth(self) -> Any:
        # Only services that verify people need the generated code of auth.
        from almagest.auth.v1 import auth_pb2_grpc  # noqa: PLC0415

        if self._auth_stub is None:
            self._auth_stub = auth_pb2_grpc.AuthServiceStub(self.channel("auth", retryable=frozenset({_GET_JWKS})))
        return self._auth_stub

    async def close(self) -> None:
        """Close the channels."""
        channels, self._channels = self._channels, []
        await asyncio.gather(*(channel.close() for channel in channels), return_exceptions=True)
        self.identity.close()


def _end_process_unless_cancelled(watch: asyncio.Task[None]) -> None:
    """A process that no longer sees its certificates change would fail hours later, far from the cause; one that does
    not hear who is locked out would let them in.
    """
    if not watch.cancelled():
        _logger.critical(
            "the process no longer watches what it must", what=watch.get_name(), exc_info=watch.exception()
        )
        signal.raise_signal(signal.SIGTERM)


def collect_seldom() -> None:
    """Look for cyclic garbage seldom, and never among what stands since the start. Nearly all of ours is freed without.

    A process that keeps a hundred thousand documents spent a third of its time looking through them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLD)


Bootstrap = Callable[[Settings, Chassis[Settings]], AbstractAsyncContextManager[Assembly]]


class _Running(Generic[Settings]):
    """A service from start to end."""

    def __init__(self, service: str, settings: Settings, bootstrap: Bootstrap[Settings]) -> None:
        self._service = service
        self._settings = settings
        self._bootstrap = bootstrap
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._server: RpcServer | None = None
        self._readiness = Readiness()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self) -> Bound:
        """Everything up to ready; what was begun is undone when a later step fails."""
        try:
            return await self._start()
        except BaseException:
            await self._undo()
            raise

    async def _start(self) -> Bound:
        settings = self._settings
        # The HTTP side first, so that a taken port shows before anything is begun.
        http = HttpSide(settings.http_listen, self._readiness)
        self._stack.callback(http.close)
        chassis = Chassis(self._service, settings)
        self._stack.push_async_callback(chassis.close)
        configure_tracing(settings, self._service)
        self._stack.push_async_callback(asyncio.to_thread, shutdown_tracing)
        self._spawn("identity watch", chassis.identity.watch(settings.identity_poll_seconds))
        self._spawn("deny list watch", chassis.denials.watch())
        assembly = await self._stack.enter_async_context(self._bootstrap(settings, chassis))
        self._readiness.probes.update(assembly.probes)
        server = self._server = RpcServer(
            settings,
            chassis.identity,
            servicers=assembly.servicers,
            policy=assembly.policy,
            errors=assembly.errors,
            verifier=chassis.verifier,
            denials=chassis.denials,
            refusals=chassis.refusals,
        )
        await server.start()
        self._spawn("connections watch", server.watch())
        if chassis.hears_revocations(assembly.policy):
            self._spawn("revocations", chassis.watch_revocations())
            self._spawn("refusals", chassis.tell_refusals())
        for number, task in enumerate(assembly.tasks):
            self._spawn(getattr(task, "__qualname__", f"task {number}"), task())
        self._http = http
        self._serving_http = asyncio.create_task(http.serve(), name="http side")
        await server.serving()
        self._readiness.health = OwnHealth(partial(chassis.own_channel, server.port))
        self._readiness.serving = True
        return Bound(server.port, http.port)

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self.failed.done():
            return
        # Told at once: what follows is an orderly end, which may take as long as the drain.
        _logger.critical("a background task ended", task=task.get_name(), exc_info=task.exception())
        error = BackgroundTaskEnded(f"{task.get_name()} ended")
        error.__cause__ = task.exception()
        self.failed.set_exception(error)

    async def stop(self) -> None:
        """NOT_SERVING, wait for balancers to notice, accept no more, finish, end background work, close."""
        self._readiness.serving = False
        if self._server is not None:
            await self._server.not_serving()
            if self._settings.shutdown_delay_seconds:
                await asyncio.sleep(self._settings.shutdown_delay_seconds)
            await self._server.stop()
        await self._undo()
        if self.failed.done() and not self.failed.cancelled():
            error = self.failed.exception()
            if error is not None:
                raise error

    async def _undo(self) -> None:
        await self._end_tasks()
        serving = getattr(self, "_serving_http", None)
        if serving is not None:
            self._http.stop()
            await asyncio.gather(serving, return_exceptions=True)
        await self._stack.aclose()
        if self.failed.done():
            self.failed.exception()

    async def _end_tasks(self) -> None:
        """Cancel the background work, again where a library has swallowed the cancellation: it would go on for ever."""
        left = {task for task in self._tasks if not task.done()}
        while left:
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=self._settings.drain_seconds + _AGAIN_SECONDS)
            for task in left:
                _logger.error("a background task does not end", task=task.get_name(), stack=str(task.get_stack()))
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def running(service: str, settings: Settings, bootstrap: Bootstrap[Settings]) -> AsyncGenerator[Bound]:
    """A service that runs for as long as the block does, without signals or log configuration: for tests.

    Raises:
        BackgroundTaskEnded: At the end of the block, when a background task had died in it.
    """
    service_running = _Running(service, settings, bootstrap)
    bound = await service_running.start()
    try:
        yield bound
    finally:
        await service_running.stop()


async def serve(service: str, settings: Settings, bootstrap: Bootstrap[Settings]) -> int:
    """Run a service until SIGTERM or SIGINT, or until a background task dies. Answers the exit code."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    service_running = _Running(service, settings, bootstrap)
    starting = asyncio.create_task(service_running.start())
    told_to_stop = asyncio.create_task(stopping.wait())
    await asyncio.wait({starting, told_to_stop}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, told_to_stop, return_exceptions=True)
        return 0
    try:
        bound = await starting
    except BaseException:
        told_to_stop.cancel()
        raise
    collect_seldom()
    _logger.info("serving", grpc_port=bound.grpc_port, http_port=bound.http_port)
    await asyncio.wait({service_running.failed, told_to_stop}, return_when=asyncio.FIRST_COMPLETED)
    told_to_stop.cancel()
    _logger.info("stopping")
    await service_running.stop()
    _logger.info("stopped")
    return 0


def main(
    service: str,
    settings: type[Settings],
    bootstrap: Bootstrap[Settings],
    *,
    migrations: str | None = None,
    commands: Mapping[str, Command] | None = None,
    without_settings: Mapping[str, Tool] | None = None,
) -> None:
    """The process of a service: `serve` (the default), `migrate`, or a command of the service's own. Exits."""
    arguments = sys.argv[1:] or ["serve"]
    tools = without_settings or {}
    if arguments[0] in tools:
        configure_logging(service)
        sys.exit(_run(tools[arguments[0]](arguments[1:])))
    known: dict[str, Command] = {**(commands or {})}
    known["serve"] = lambda read, _arguments: serve(service, read, bootstrap)
    if migrations is not None:
        known["migrate"] = lambda read, _arguments: _migrate(service, read, migrations)
    command = known.get(arguments[0])
    if command is None:
        sys.stderr.write(f"usage: python -m {service.replace('-', '_')} [{'|'.join(sorted({*known, *tools}))}]\n")
        sys.exit(_USAGE_ERROR)
    try:
        read = settings()  # pyright: ignore[reportCallIssue] - the environment gives what has no default
    except ValidationError as error:
        configure_logging(service)
        for problem in error.errors(include_input=False, include_url=False):
            _logger.error("a setting is wrong", setting=".".join(map(str, problem["loc"])), problem=problem["msg"])  # noqa: TRY400
        sys.exit(_USAGE_ERROR)
    configure_logging(service, read.log_level)
    sys.exit(_run(command(read, arguments[1:])))


def _run(work: Awaitable[int]) -> int:
    async def awaited() -> int:
        return await work

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(awaited())
    except KeyboardInterrupt:
        return 130
    except (CannotStart, OSError, InvalidIdentity, InvalidDenyList, PolicyIncomplete) as error:
        # These say what is wrong with the place that we run in; where in our code it was noticed helps nobody.
        _logger.error("cannot start", problem=str(error))  # noqa: TRY400
        return 1
    except Exception:
        _logger.exception("the process failed")
        return 1


async def _migrate(service: str, settings: ServiceSettings, package: str) -> int:
    from chassis.database.migrations import upgrade  # noqa: PLC0415 - services without a database install no Alembic

    if not isinstance(settings, DatabaseSettings):
        raise TypeError(f"{service} has migrations, but its settings name no databases")
    role = settings.service_role or service.replace("-", "_")
    await upgrade(package, settings.migration_database_urls or settings.database_urls, role)
    return 0


__all__ = [
    "Assembly",
    "BackgroundTaskEnded",
    "Bootstrap",
    "Bound",
    "CannotStart",
    "Chassis",
    "main",
    "running",
    "serve",
]
