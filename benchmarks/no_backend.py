"""The gateway, as it is, over ports that answer from memory: what the door itself costs. Told by its environment like
the gateway.
"""

import asyncio
import base64
import json
import signal
import sys
import time
import uuid
from dataclasses import fields
from typing import Any, cast

import uvloop
from almagest.auth.v1 import auth_pb2
from almagest.catalog.v1 import query_pb2
from chassis.http import Readiness
from chassis.telemetry.logging import configure_logging
from chassis.telemetry.tracing import configure_tracing, shutdown_tracing
from gateway.adapters.redis import NoKeyMemory
from gateway.app import create_app
from gateway.application.changes import Feeds
from gateway.application.ports import Ports
from gateway.application.quotas import Quotas
from gateway.server import serve
from gateway.settings import Settings


def token() -> str:
    """A token in the shape of one."""
    part = base64.urlsafe_b64encode(json.dumps({"sub": str(uuid.uuid4())}).encode()).rstrip(b"=").decode()
    return f"{part}.{part}.{part}"


class Memory:
    """Vouches for everybody, and has one product, whatever is asked for."""

    def __init__(self, document: bytes) -> None:
        self._document = query_pb2.ProductDocument(document=document, revision=3, consistency_token="CAEQXSAD")

    async def exchange(self, access_token: str, bound_to: str) -> auth_pb2.ExchangeTokenResponse:
        """A transaction token for an hour."""
        del bound_to
        answer = auth_pb2.ExchangeTokenResponse(transaction_token=access_token)
        answer.expires_at.FromSeconds(int(time.time()) + 3600)
        return answer

    async def product(self, item: query_pb2.GetProductItem) -> query_pb2.ProductDocument:
        """The product, after one turn of the event loop, as if somebody had been asked."""
        del item
        await asyncio.sleep(0)
        return self._document


async def run() -> None:
    """Serve until told to stop."""
    settings = Settings()  # pyright: ignore[reportCallIssue]
    configure_logging("no-backend", "WARNING")
    configure_tracing(settings, "no-backend")
    memory = cast("Any", Memory(sys.stdin.buffer.read()))
    ports = Ports(**{field.name: memory for field in fields(Ports)} | {"keys": NoKeyMemory()})
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await serve(create_app(settings, ports, Readiness(), Quotas(), Feeds(per_person=1)), settings, stop)
    shutdown_tracing()


if __name__ == "__main__":
    uvloop.run(run())
