"""A service's search, on the wire. Auth alone calls it."""
# ruff: noqa: N802, ARG002 - gRPC names the method, and gives it a context

from collections.abc import AsyncGenerator, Callable, Sequence

from almagest.auth.v1 import privacy_pb2 as wire
from almagest.auth.v1 import privacy_pb2_grpc
from grpc.aio import ServicerContext

from chassis.policy import Person, Policy, Rule
from chassis.searching.needles import Found, Needles

SERVICE = wire.DESCRIPTOR.services_by_name["PersonalDataService"].full_name
POLICY: Policy = {f"/{SERVICE}/SearchPersonalData": Rule(callers=frozenset({"auth"}), person=Person.NONE)}
"""The rows of this service, for the policy of whoever serves it."""

Search = Callable[[Needles], AsyncGenerator[Found]]


class PersonalDataServicer(privacy_pb2_grpc.PersonalDataServiceServicer):
    """Searches the stores of a service, one after another."""

    def __init__(self, searches: Sequence[Search]) -> None:
        self._searches = searches

    async def SearchPersonalData(
        self,
        request: wire.SearchPersonalDataRequest,
        context: ServicerContext[wire.SearchPersonalDataRequest, wire.SearchPersonalDataResponse],
    ) -> AsyncGenerator[wire.SearchPersonalDataResponse]:
        """Search everything."""
        needles = Needles(findings=tuple(request.findings), mentions=tuple(request.mentions))
        for search in self._searches:
            async for found in search(needles):
                yield wire.SearchPersonalDataResponse(store=on_the_wire(found))


def on_the_wire(found: Found, *, service: str = "") -> wire.SearchedStore:
    """What was found, as messages tell it."""
    return wire.SearchedStore(
        service=service,
        store=found.store,
        total=found.total,
        searched=min(found.searched, found.total),
        findings=found.findings,
        mentions=found.mentions,
    )


add_to_server = privacy_pb2_grpc.add_PersonalDataServiceServicer_to_server
"""What adds the servicer to a server."""
