"""The change feed of catalog-query."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from almagest.catalog.v1 import changes_pb2, changes_pb2_grpc
from chassis.rpc.channel import Channel

from gateway.adapters.auth import on_behalf_of
from gateway.application.ports import Changes, Person


class GrpcChanges(Changes):
    """The change feed over gRPC."""

    def __init__(self, channel: Channel) -> None:
        # Streams answer a `StreamCall`, which the generated types do not know.
        self._stub: Any = changes_pb2_grpc.CatalogChangesServiceStub(channel)

    async def subscribe(  # noqa: D102 - the port says
        self, request: changes_pb2.SubscribeChangesRequest, person: Person
    ) -> AsyncGenerator[changes_pb2.SubscribeChangesResponse, None]:
        call = self._stub.SubscribeChanges(request, metadata=on_behalf_of(person))
        async with aclosing(aiter(call)) as pieces:
            async for piece in pieces:
                yield piece
