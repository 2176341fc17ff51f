"""The composition root: the shards' databases, their append loops, the reader and the servicer."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import structlog
from almagest.eventstore.v1 import administration_pb2_grpc
from chassis.database.pool import Database
from chassis.process import Assembly, CannotStart, Chassis, Task
from chassis.redis import connect
from chassis.searching import servicer as searching
from chassis.searching.database import search_database

from event_store.adapters.archive_files import ArchiveFiles
from event_store.adapters.postgres import PostgresLog
from event_store.adapters.postgres.connection import plan_once
from event_store.adapters.postgres.moves import PostgresMoves
from event_store.adapters.postgres.shards import PostgresShard
from event_store.adapters.redis import Doorbell
from event_store.adapters.searching import search_archives
from event_store.adapters.telemetry import Telemetry
from event_store.application.append_loop import AppendLoop, Bounds
from event_store.application.heads import Heads
from event_store.application.membership import ShardsUnusable, join
from event_store.application.mover import Mover
from event_store.application.moves import Move
from event_store.application.pages import PageBounds
from event_store.application.reads import Reader
from event_store.application.shard_map import Rereading, Rerouting, Routing
from event_store.application.tails import Tail
from event_store.entrypoints.administration import AdministrationServicer
from event_store.entrypoints.errors import ERRORS
from event_store.entrypoints.policy import ADMINISTRATION, POLICY, SERVICE
from event_store.entrypoints.reading import ReadLimits, add_to_server
from event_store.entrypoints.servicer import EventStoreServicer
from event_store.entrypoints.wire import Limits
from event_store.settings import Settings

_logger = structlog.stdlib.get_logger(__name__)


@asynccontextmanager
async def bootstrap(settings: Settings, chassis: Chassis[Settings]) -> AsyncGenerator[Assembly, None]:
    """Everything that the event store consists of, for as long as the block lasts."""
    async with AsyncExitStack() as stack:
        databases: list[Database] = []
        for shard, dsn in enumerate(settings.database_urls):
            database = await Database.open(
                dsn,
                name=f"events_{shard}",
                size=settings.pool_size,
                application_name="almagest event-store",
                init=plan_once,
            )
            stack.push_async_callback(database.close)
            databases.append(database)
        shards = len(databases)
        telemetry = Telemetry(shards)
        heads = Heads(shards, watcher=telemetry.head)
        directory = settings.archive_directory
        files = [] if directory is None else [ArchiveFiles(directory, shard) for shard in range(shards)]
        logs = [
            PostgresLog(
                database,
                shard,
                append_seconds=settings.append_seconds,
                archives=files[shard] if files else None,
            )
            for shard, database in enumerate(databases)
        ]
        places = [
            PostgresShard(database, shard, log)
            for shard, (database, log) in enumerate(zip(databases, logs, strict=True))
        ]
        routing = Routing(places)
        try:
            await join(places)
            await routing.open()
        except ShardsUnusable as error:
            raise CannotStart(str(error)) from error
        tails = [
            Tail(
                shard,
                log,
                heads,
                telemetry,
                every=settings.poll_seconds,
                max_bytes=settings.tail_bytes,
                bounds=PageBounds(),
                catching_up=max(1, settings.pool_size // 2),
            )
            for shard, log in enumerate(logs)
        ]
        tasks: list[Task] = [*(tail.run for tail in tails), partial(routing.watch, settings.map_seconds)]
        doorbell: Doorbell | None = None
        if settings.redis_url is not None:
            clients = [
                connect(settings.redis_url, identity_directory=settings.identity_directory, blocking_seconds=2.0)
                for _ in range(2)
            ]
            for client in clients:
                stack.push_async_callback(client.aclose)
            doorbell = Doorbell(clients[0], clients[1], heads, mapped=routing.rumoured)
            routing.tell(doorbell.remapped)
            tasks += [doorbell.ring, doorbell.hear]
        loops = [
            AppendLoop(
                shard,
                log,
                heads=heads,
                observer=telemetry,
                bounds=_bounds(settings),
                committed=doorbell.committed if doorbell is not None else None,
            )
            for shard, log in enumerate(logs)
        ]
        tasks += [loop.run for loop in loops]

        def copied(shard: int, head: int) -> None:
            heads.reached(shard, head)
            if doorbell is not None:
                doorbell.committed(shard, head)

        mover = Mover(
            places,
            PostgresMoves(databases[0], 0),
            routing,
            reached=_moved,
            committed=copied,
            advanced=telemetry.move_advanced,
        )
        tasks.append(mover.run)
        servicer = EventStoreServicer(
            buckets=routing,
            loops=loops,
            metadata=logs,
            rerouted=Rerouting(routing, loops, patience=settings.move_wait_seconds),
            reread=Rereading(routing, patience=settings.move_wait_seconds),
            reader=Reader(logs, heads, tails),
            verifier=chassis.verifier,
            errors=ERRORS,
            limits=Limits(
                max_appends=settings.max_appends,
                max_events=settings.max_events,
                max_streams=settings.max_streams,
                max_payload_bytes=settings.max_payload_bytes,
                max_metadata_bytes=settings.max_metadata_bytes,
                max_request_bytes=settings.max_request_bytes,
            ),
            read_limits=ReadLimits(
                max_streams=settings.max_batch_streams,
                max_events=settings.max_batch_events,
                max_bytes=settings.max_batch_bytes,
                max_snapshots=settings.max_snapshots,
                max_snapshot_bytes=settings.max_snapshot_bytes,
            ),
        )
        searches: list[searching.Search] = [partial(search_database, database) for database in databases]
        yield Assembly(
            servicers=[
                (SERVICE, add_to_server, servicer),
                (
                    searching.SERVICE,
                    searching.add_to_server,
                    searching.PersonalDataServicer([*searches, partial(search_archives, files)]),
                ),
                (
                    ADMINISTRATION,
                    administration_pb2_grpc.add_EventStoreAdministrationServiceServicer_to_server,
                    AdministrationServicer(
                        stored=logs,
                        tables=logs,
                        archived=logs,
                        files=files,
                        archive_events=settings.archive_events,
                        mover=mover,
                    ),
                ),
            ],
            policy=POLICY,
            errors=ERRORS,
            tasks=tasks,
            probes={database.name: database.ping for database in databases},
        )


def _bounds(settings: Settings) -> Bounds:
    return Bounds(
        batch_appends=settings.batch_appends,
        batch_bytes=settings.batch_bytes,
        in_flight=settings.batches_in_flight,
        queue_appends=settings.queue_appends,
        queue_bytes=settings.queue_bytes,
        settle_seconds=settings.resolve_seconds,
    )


def _moved(move: Move, step: str) -> None:
    if step != "copied a piece":
        _logger.info(
            "a move of buckets goes on",
            move_id=move.move_id,
            step=step,
            buckets=f"{move.first}-{move.last}",
            from_shard=move.from_shard,
            to_shard=move.to_shard,
        )
