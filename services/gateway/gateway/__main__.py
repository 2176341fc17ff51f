"""`python -m gateway serve`: the door, until SIGTERM."""

import asyncio
import signal
import sys

import structlog
import uvloop
from chassis.identity.certificate import InvalidIdentity
from chassis.process import collect_seldom
from chassis.telemetry.logging import configure_logging
from pydantic import ValidationError

from gateway.bootstrap import SERVICE, gateway
from gateway.server import ServerFailed, serve
from gateway.settings import Settings

_USAGE_ERROR = 2
_logger = structlog.stdlib.get_logger(__name__)


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT: then not ready, for as long as balancers need to notice; then no more requests;
    then the end.
    """
    stop = asyncio.Event()
    draining = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, draining.set)
    async with gateway(settings) as (application, readiness, feeds):
        readiness.serving = True
        collect_seldom()

        async def drain() -> None:
            await draining.wait()
            readiness.serving = False
            await asyncio.sleep(settings.shutdown_delay_seconds)
            feeds.drain()
            stop.set()

        told = asyncio.create_task(drain())
        try:
            _logger.info("serving", listen=settings.listen, http_server=settings.http_server)
            await serve(application, settings, stop)
        finally:
            told.cancel()
    _logger.info("ended")


def main() -> None:
    """Run what the command line asks for."""
    command = sys.argv[1:] or ["serve"]
    if command == ["migrate"]:
        return
    if command != ["serve"]:
        raise SystemExit("usage: python -m gateway [serve|migrate]")
    try:
        settings = Settings()  # pyright: ignore[reportCallIssue] - from the environment
    except ValidationError as error:
        problems = "; ".join(f"ALMAGEST_{str(item['loc'][0]).upper()}: {item['msg']}" for item in error.errors())
        sys.stderr.write(f"gateway: the settings are not valid: {problems}\n")
        raise SystemExit(_USAGE_ERROR) from None
    configure_logging(SERVICE, settings.log_level)
    try:
        uvloop.run(run(settings))
    except (InvalidIdentity, OSError, ValueError, ServerFailed) as error:
        _logger.critical("cannot serve", problem=str(error), exc_info=error.__cause__)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
