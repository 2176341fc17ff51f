"""The composition root: who we are, the way to the services, and the application on top of them."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from chassis.http import Readiness
from chassis.process import Chassis
from chassis.redis import connect
from chassis.rpc.channel import Channel
from redis.asyncio import Redis

from gateway.adapters import (
    access_keys,
    auth,
    catalog_command,
    catalog_query,
    erasures,
    operators,
    payload_keys,
    worker,
)
from gateway.adapters.access_keys import GrpcAccessKeys
from gateway.adapters.changes import GrpcChanges
from gateway.adapters.erasures import GrpcErasures
from gateway.adapters.nonces import NoNonces, RedisNonces
from gateway.adapters.operators import GrpcOperators
from gateway.adapters.payload_keys import GrpcPayloadKeys
from gateway.adapters.redis import NoKeyMemory, RedisKeyMemory, RedisQuotas
from gateway.app import create_app
from gateway.application.changes import Feeds
from gateway.application.ports import Ports
from gateway.application.quotas import Quotas
from gateway.middleware.context import Application
from gateway.settings import Settings

SERVICE = "gateway"
_REDIS_SECONDS = 0.25
_AUTH_RETRYABLE = auth.RETRYABLE | access_keys.RETRYABLE | payload_keys.RETRYABLE | erasures.RETRYABLE


@asynccontextmanager
async def gateway(settings: Settings) -> AsyncGenerator[tuple[Application, Readiness, Feeds]]:
    """The application with its real ports, which are closed at the end; its readiness, and its endless feeds."""
    async with AsyncExitStack() as stack:
        chassis = await stack.enter_async_context(Chassis[Settings].open(SERVICE, settings))
        channels = {
            "auth": chassis.channel("auth", retryable=_AUTH_RETRYABLE),
            "catalog-command": chassis.channel("catalog-command"),
            "catalog-query": chassis.channel("catalog-query", retryable=catalog_query.RETRYABLE | operators.RETRYABLE),
            "worker": chassis.channel("worker", retryable=worker.RETRYABLE),
        }
        commands = catalog_command.GrpcCatalogCommand(channels["catalog-command"])
        stack.push_async_callback(commands.close)
        queries = catalog_query.GrpcCatalogQuery(channels["catalog-query"])
        stack.push_async_callback(queries.close)
        redis = _redis(settings, stack)
        nonces = NoNonces() if redis is None else RedisNonces(redis)
        stack.push_async_callback(nonces.close)
        if isinstance(nonces, RedisNonces):
            stack.callback(asyncio.create_task(nonces.watch()).cancel)
        ports = Ports(
            auth=auth.GrpcAuth(channels["auth"]),
            catalog_command=commands,
            catalog_query=queries,
            worker=worker.GrpcWorker(channels["worker"], upload_seconds=settings.upload_seconds),
            keys=NoKeyMemory() if redis is None else RedisKeyMemory(redis),
            changes=GrpcChanges(channels["catalog-query"]),
            operators=GrpcOperators(channels["catalog-query"]),
            nonces=nonces,
            payload_keys=GrpcPayloadKeys(channels["auth"]),
            access_keys=GrpcAccessKeys(channels["auth"]),
            erasures=GrpcErasures(channels["auth"]),
        )
        quotas = Quotas(None if redis is None else RedisQuotas(redis))
        sharing = asyncio.create_task(quotas.share())
        stack.callback(sharing.cancel)
        readiness = Readiness({name: _reachable(channel) for name, channel in channels.items()}, once=True)
        feeds = Feeds(per_person=settings.changes_feeds_per_person)
        yield create_app(settings, ports, readiness, quotas, feeds, chassis.revocations), readiness, feeds


def _redis(settings: Settings, stack: AsyncExitStack) -> Redis | None:
    if settings.redis_url is None:
        return None
    redis = connect(settings.redis_url, identity_directory=settings.identity_directory, timeout=_REDIS_SECONDS)
    stack.push_async_callback(redis.aclose)
    return redis


def _reachable(channel: Channel) -> Callable[[], Awaitable[None]]:
    async def probe() -> None:
        await channel.channel_ready()

    return probe
