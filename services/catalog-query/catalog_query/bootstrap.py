"""The composition root: the only module that knows everything."""

import os
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

from almagest.catalog.v1 import (
    changes_pb2_grpc,
    past_pb2_grpc,
    projections_pb2_grpc,
    query_pb2_grpc,
    schedules_pb2_grpc,
)
from chassis.database.engine import create_engine
from chassis.database.pool import Database
from chassis.ids import uuid7
from chassis.process import Assembly, Chassis
from chassis.searching import servicer as searching
from chassis.searching.database import search_database

from catalog_query.adapters.change_log import GrpcChangeLog
from catalog_query.adapters.event_store import RETRYABLE, EventStore
from catalog_query.adapters.generations import GenerationsShard
from catalog_query.adapters.postgres import ReadModelShard
from catalog_query.adapters.products import ServedProducts
from catalog_query.adapters.queries import ProductPages
from catalog_query.adapters.schedules import ServedSchedules
from catalog_query.adapters.versions import VersionPages
from catalog_query.application.changes.feed import ChangeFeeds, FeedLimits
from catalog_query.application.changes.tail import Retention
from catalog_query.application.freshness import Freshness
from catalog_query.application.history import HistoryReader
from catalog_query.application.holds import Holds
from catalog_query.application.past import Calendar, PastReader
from catalog_query.application.past_pages import PastPages
from catalog_query.application.reads import ProductReader
from catalog_query.application.schedules import Schedules
from catalog_query.application.shards import Shards
from catalog_query.domain.projection import PRODUCTS, Target
from catalog_query.entrypoints.catalog_query import CatalogQueryServicer
from catalog_query.entrypoints.changes import CatalogChangesServicer
from catalog_query.entrypoints.errors import ERRORS
from catalog_query.entrypoints.past import CatalogPastServicer
from catalog_query.entrypoints.policy import (
    CHANGES_NAME,
    PAST_NAME,
    POLICY,
    PROJECTIONS_NAME,
    SCHEDULES_NAME,
    SERVICE_NAME,
)
from catalog_query.entrypoints.projections import CatalogProjectionServicer
from catalog_query.entrypoints.schedules import CatalogScheduleServicer
from catalog_query.projections.checks import ProductCheck, VersionCheck
from catalog_query.projections.drift import DriftCheck
from catalog_query.projections.operations import Operations
from catalog_query.projections.ports import Pace
from catalog_query.projections.product import Products
from catalog_query.projections.rebuild import Rebuilds
from catalog_query.projections.supervisor import Followed, Projections
from catalog_query.projections.versions import Versions
from catalog_query.settings import Settings

SERVICE: Final = "catalog-query"


@asynccontextmanager
async def bootstrap(settings: Settings, chassis: Chassis[Settings]) -> AsyncGenerator[Assembly]:
    """Put the service together."""
    async with AsyncExitStack() as stack:
        databases: list[Database] = []
        for shard, dsn in enumerate(settings.database_urls):
            name = f"catalog_{shard}"
            database = await Database.open(dsn, name=name, size=settings.pool_size, application_name=SERVICE)
            stack.push_async_callback(database.close)
            databases.append(database)
        shards = Shards(len(databases))
        freshness = Freshness()
        holds = Holds(shards, freshness)
        read_models = [ReadModelShard(database) for database in databases]
        channel = chassis.channel("event-store", retryable=RETRYABLE)
        event_store = EventStore(channel)
        products = Products(
            cached_documents=settings.projection_cached_documents,
            cached_while_filling=settings.rebuild_cached_documents,
        )
        versions_freshness = Freshness()
        versions_holds = Holds(shards, versions_freshness)

        def present_is_behind() -> bool:
            return any(
                head - checkpoint > settings.projection_batch_events
                for shard in range(shards.read_shards)
                for _, checkpoint, head in projections.progress(Target(PRODUCTS, freshness.generation(shard)), shard)
            )

        versions = Versions(
            event_store,
            cached=settings.versions_cached_products,
            cached_while_filling=settings.rebuild_cached_documents,
            gives_way=present_is_behind,
        )
        pace = Pace(batch_events=settings.projection_batch_events, lease=settings.projection_lease_seconds)
        projections = Projections(
            owner=f"{socket.gethostname()}/{os.getpid()}/{uuid7()}",
            log=event_store,
            read_models=read_models,
            shards=shards,
            followed=[
                Followed(products, freshness, holds),
                Followed(versions, versions_freshness, versions_holds),
            ],
            pace=pace,
            filling=replace(pace, batch_events=settings.rebuild_batch_events, patient=True),
            look_every=settings.projection_look_seconds,
            chores=Rebuilds([GenerationsShard(read_model) for read_model in read_models]),
        )
        product_check, version_check = ProductCheck(event_store), VersionCheck(event_store)
        drift = DriftCheck(
            log=event_store,
            read_models=read_models,
            shards=shards,
            checks=[(product_check, freshness), (version_check, versions_freshness)],
            products_a_second=settings.drift_products_a_second,
        )
        operations = Operations(
            projections=projections,
            known={products.name: products, versions.name: versions},
            shards=shards,
            read_models=read_models,
            log=event_store,
            checks=[product_check, version_check],
        )
        await projections.recall()
        documents: list[ServedProducts] = []
        pages: list[ProductPages] = []
        past_pages: list[VersionPages] = []
        lists: list[ServedSchedules] = []
        for shard, dsn in enumerate(settings.database_urls):
            engine = create_engine(
                dsn,
                name=f"catalog_{shard}_search",
                size=settings.search_connections,
                application_name=f"{SERVICE} search",
                isolation_level="AUTOCOMMIT",
            )
            stack.push_async_callback(engine.dispose)
            generation = partial(freshness.generation, shard)
            adopted = partial(projections.adopted, shard)
            documents.append(ServedProducts(read_models[shard], generation, adopted))
            pages.append(ProductPages(engine, generation, adopted))
            lists.append(ServedSchedules(read_models[shard], generation, adopted))
            past_pages.append(VersionPages(engine, partial(versions_freshness.generation, shard), adopted))
        servicer = CatalogQueryServicer(
            shards=shards,
            freshness=freshness,
            holds=holds,
            reader=ProductReader(shards=shards, documents=documents, pages=pages, page_bytes=settings.page_bytes),
            history=HistoryReader(event_store, page_bytes=settings.page_bytes),
            projections=projections,
            verifier=chassis.verifier,
            errors=ERRORS,
            maximum_wait=settings.maximum_wait_seconds,
            now=_now,
        )
        calendar = Calendar(event_store, clock=_now)
        past = CatalogPastServicer(
            shards=shards,
            freshness=versions_freshness,
            calendar=calendar,
            reader=PastReader(event_store, calendar),
            pages=PastPages(
                log=event_store,
                shards=shards,
                freshness=versions_freshness,
                holds=versions_holds,
                versions=past_pages,
                page_bytes=settings.page_bytes,
            ),
            holds=versions_holds,
            maximum_wait=settings.maximum_wait_seconds,
        )
        feeds = ChangeFeeds(
            GrpcChangeLog(channel),
            FeedLimits(
                cached_products=settings.changes_cached_products,
                retention=Retention(changes=settings.changes_retained, size=settings.changes_retained_bytes),
            ),
        )
        changes = CatalogChangesServicer(feeds)
        schedules = CatalogScheduleServicer(
            schedules=Schedules(shards=shards, tables=lists),
            shards=shards,
            freshness=freshness,
            maximum_wait=settings.maximum_wait_seconds,
        )
        searches: list[searching.Search] = [partial(search_database, database) for database in databases]
        yield Assembly(
            servicers=[
                (searching.SERVICE, searching.add_to_server, searching.PersonalDataServicer(searches)),
                (SCHEDULES_NAME, schedules_pb2_grpc.add_CatalogScheduleServiceServicer_to_server, schedules),
                (SERVICE_NAME, query_pb2_grpc.add_CatalogQueryServiceServicer_to_server, servicer),
                (PAST_NAME, past_pb2_grpc.add_CatalogPastServiceServicer_to_server, past),
                (
                    PROJECTIONS_NAME,
                    projections_pb2_grpc.add_CatalogProjectionServiceServicer_to_server,
                    CatalogProjectionServicer(operations),
                ),
                (CHANGES_NAME, changes_pb2_grpc.add_CatalogChangesServiceServicer_to_server, changes),
            ],
            policy=POLICY,
            errors=ERRORS,
            tasks=[projections.run, drift.run, feeds.run],
            probes={f"catalog_{shard}": database.ping for shard, database in enumerate(databases)},
        )


def _now() -> datetime:
    return datetime.now(UTC)
