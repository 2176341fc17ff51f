"""The small HTTP side of a service: whether it lives, serves and is ready, and its metrics. Plain HTTP, so it listens
on loopback or inside a pod.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Generator, Mapping

import structlog
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

Probe = Callable[[], Awaitable[None]]

_PROBE_SECONDS = 2.0
_logger = structlog.stdlib.get_logger(__name__)


class Readiness:
    """Whether a process can do its work: serving, not draining, and every probe passes.

    With `once`, a probe that has passed since the start is still run and told, but no longer decides: what only stands
    before other services can say better than a balancer without targets which of them is away.
    """

    def __init__(self, probes: Mapping[str, Probe] | None = None, *, once: bool = False) -> None:
        self.probes: dict[str, Probe] = dict(probes or {})
        self.health: Probe | None = None
        self.serving = False
        self._once = once
        self._passed: set[str] = set()

    async def check(self) -> tuple[bool, dict[str, str]]:
        """Run all probes at once; answers whether all is well, and what each probe said, without inner error texts."""
        names = list(self.probes)
        outcomes = await asyncio.gather(*(self._probe(name) for name in names))
        said = dict(zip(names, outcomes, strict=True))
        passed = {name for name, outcome in said.items() if outcome == "ok"}
        self._passed = passed | self._passed if self._once else passed
        return self.serving and self._passed.issuperset(names), said

    async def healthy(self) -> bool:
        """Whether the server says that it serves, when it is asked as others ask it. What it needs does not count: a
        database that is away is away for every replica, and callers are told better by an answer than by none.
        """
        return self.serving and self.health is not None and await self._outcome("health", self.health) == "ok"

    async def _probe(self, name: str) -> str:
        return await self._outcome(name, self.probes[name])

    async def _outcome(self, name: str, probe: Probe) -> str:
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                await probe()
        except TimeoutError:
            return "timeout"
        except Exception as error:  # noqa: BLE001 - the outcome is the answer
            _logger.warning("a readiness probe failed", probe=name, problem=str(error))
            return "failed"
        return "ok"


def application(readiness: Readiness) -> Starlette:
    """The ASGI application of the HTTP side."""

    async def livez(_request: Request) -> Response:
        return PlainTextResponse("ok")

    async def healthz(_request: Request) -> Response:
        healthy = await readiness.healthy()
        return PlainTextResponse("SERVING" if healthy else "NOT_SERVING", 200 if healthy else 503)

    async def readyz(_request: Request) -> Response:
        ready, probes = await readiness.check()
        return JSONResponse({"ready": ready, "probes": probes}, status_code=200 if ready else 503)

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    routes = {"/livez": livez, "/healthz": healthz, "/readyz": readyz, "/metrics": metrics}
    return Starlette(routes=[Route(path, endpoint) for path, endpoint in routes.items()])


def bind(listen: str) -> socket.socket:
    """A listening socket at `host:port`.

    Raises:
        OSError: The address is taken or not ours.
    """
    host, separator, port = listen.rpartition(":")
    host = host.strip("[]")
    if not separator or not port.isdecimal():
        raise ValueError(f"{listen!r} is not host:port")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, int(port)))
        bound.listen(128)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        raise OSError(error.errno, f"cannot listen on {listen}: {error.strerror}") from error
    return bound


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class HttpSide:
    """Runs the HTTP side on the present event loop."""

    def __init__(self, listen: str, readiness: Readiness) -> None:
        """Bind the address.

        Raises:
            OSError: It is taken or not ours.
        """
        self._socket = bind(listen)
        self.port = int(self._socket.getsockname()[1])
        self._server = _Server(
            uvicorn.Config(
                application(readiness),
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=1,
                server_header=False,
            )
        )

    async def serve(self) -> None:
        """Serve until `stop`."""
        await self._server.serve(sockets=[self._socket])

    def stop(self) -> None:
        """Have `serve` return soon."""
        self._server.should_exit = True

    def close(self) -> None:
        """Give the address back, when `serve` was never called."""
        self._socket.close()
