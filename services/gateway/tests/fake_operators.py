"""Projections to look after."""

import grpc
from almagest.catalog.v1 import projections_pb2
from gateway.application.ports import Operators, Person
from google.protobuf.message import Message

from .fake_answers import problem


class FakeOperators(Operators):
    """One projection with an event that is parked, and two generations."""

    def __init__(self) -> None:
        self.asked: list[tuple[Message, str]] = []
        self.parked = projections_pb2.ParkedEvent(
            parked_id="0199f5a0-7c1e-7d31-9a5b-0d2c3e4f5a6b", projection="products", revision=2, type="PriceBurnt"
        )
        self.comparison = projections_pb2.Comparison(against=1, compared=7, different=2, fields={"document.name": 2})

    async def list_projections(
        self, request: projections_pb2.ListProjectionsRequest, person: Person
    ) -> projections_pb2.ListProjectionsResponse:
        del person
        if request.projection != "products":
            raise problem(grpc.StatusCode.NOT_FOUND, "PROJECTION_NOT_FOUND")
        progress = [projections_pb2.GenerationProgress(checkpoint=3, head=5, lag_seconds=0.5, running=True)]
        generations = [
            projections_pb2.ProjectionGeneration(generation=1, state="serving", progress=progress, held_streams=1),
            projections_pb2.ProjectionGeneration(generation=2, state="ready", comparison=self.comparison),
        ]
        return projections_pb2.ListProjectionsResponse(
            projections=[projections_pb2.Projection(name="products", generations=generations)]
        )

    async def list_parked(
        self, request: projections_pb2.ListParkedEventsRequest, person: Person
    ) -> projections_pb2.ListParkedEventsResponse:
        del person
        following = "" if request.page_token else "more"
        return projections_pb2.ListParkedEventsResponse(parked=[self.parked], next_page_token=following)

    async def retry_parked(
        self, request: projections_pb2.RetryParkedEventsRequest, person: Person
    ) -> projections_pb2.RetryParkedEventsResponse:
        self.asked.append((request, person.subject))
        return projections_pb2.RetryParkedEventsResponse(still_parked=1, parked=[self.parked])

    async def skip_parked(
        self, request: projections_pb2.SkipParkedEventRequest, person: Person
    ) -> projections_pb2.SkipParkedEventResponse:
        self.asked.append((request, person.subject))
        return projections_pb2.SkipParkedEventResponse()

    async def rebuild(self, request: projections_pb2.RebuildRequest, person: Person) -> projections_pb2.RebuildResponse:
        self.asked.append((request, person.subject))
        return projections_pb2.RebuildResponse(generation=2, created=True)

    async def compare(self, request: projections_pb2.CompareRequest, person: Person) -> None:
        self.asked.append((request, person.subject))

    async def list_differences(
        self, request: projections_pb2.ListDifferencesRequest, person: Person
    ) -> projections_pb2.ListDifferencesResponse:
        del request, person
        found = projections_pb2.Difference(key="a", revision=3, kind="field", field="document.name", after='"B"')
        return projections_pb2.ListDifferencesResponse(differences=[found], comparison=self.comparison)

    async def switch(
        self, request: projections_pb2.SwitchGenerationRequest, person: Person
    ) -> projections_pb2.SwitchGenerationResponse:
        self.asked.append((request, person.subject))
        if not request.force and "document.name" not in request.accepted_fields:
            raise problem(grpc.StatusCode.FAILED_PRECONDITION, "GENERATIONS_DIFFER")
        return projections_pb2.SwitchGenerationResponse(previous=1)

    async def drop(self, request: projections_pb2.DropGenerationRequest, person: Person) -> None:
        self.asked.append((request, person.subject))

    async def list_drift(
        self, request: projections_pb2.ListDriftRequest, person: Person
    ) -> projections_pb2.ListDriftResponse:
        del request, person
        return projections_pb2.ListDriftResponse(
            drift=[projections_pb2.Drift(product_id="a", generation=1, kind="different", fields=["document"])]
        )

    async def repair(
        self, request: projections_pb2.RepairProductRequest, person: Person
    ) -> projections_pb2.RepairProductResponse:
        self.asked.append((request, person.subject))
        return projections_pb2.RepairProductResponse(revision=4, changed=1)
