"""The composition root."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from almagest.catalog.v1 import command_pb2, command_pb2_grpc
from almagest.eventstore.v1 import event_store_pb2, event_store_pb2_grpc
from chassis.policy import Person, Policy, Rule
from chassis.process import Assembly, Chassis

from catalog_command.adapters.event_store import EventStoreProductLog
from catalog_command.application.execute_commands import ExecuteCommands
from catalog_command.application.known_products import KnownProducts
from catalog_command.application.product_log import ProductLog
from catalog_command.entrypoints.errors import error_table
from catalog_command.entrypoints.servicer import SCOPE, CatalogCommandServicer
from catalog_command.settings import Settings

SERVICE = command_pb2.DESCRIPTOR.services_by_name["CatalogCommandService"]
POLICY: Policy = {
    f"/{SERVICE.full_name}/ExecuteCommands": Rule(
        callers=frozenset({"gateway", "worker"}), person=Person.PER_ITEM, scopes=frozenset({SCOPE})
    ),
}
# Appends are not among them: the use case repeats those itself, knowing what it does.
LOG = event_store_pb2.DESCRIPTOR.services_by_name["EventStoreService"]
RETRYABLE = frozenset({f"/{LOG.full_name}/GetAppend", f"/{LOG.full_name}/BatchReadStreams"})


def assemble(settings: Settings, chassis: Chassis[Settings], log: ProductLog) -> Assembly:
    """The service over some log."""
    errors = error_table()
    servicer = CatalogCommandServicer(
        execute=ExecuteCommands(log=log, products=KnownProducts(settings.known_products)),
        verifier=chassis.verifier,
        errors=errors,
        maximum_items=settings.maximum_items,
    )
    return Assembly(
        servicers=[
            (SERVICE.full_name, command_pb2_grpc.add_CatalogCommandServiceServicer_to_server, servicer),
        ],
        policy=POLICY,
        errors=errors,
    )


@asynccontextmanager
async def bootstrap(settings: Settings, chassis: Chassis[Settings]) -> AsyncGenerator[Assembly]:
    """The service over the event store."""
    stub = event_store_pb2_grpc.EventStoreServiceStub(chassis.channel("event-store", retryable=RETRYABLE))
    log = EventStoreProductLog(stub, in_flight=settings.appends_in_flight)
    try:
        yield assemble(settings, chassis, log)
    finally:
        await log.close()
