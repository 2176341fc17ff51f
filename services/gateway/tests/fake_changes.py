"""The change feed in memory."""

import asyncio
from collections.abc import AsyncGenerator

from almagest.catalog.v1 import changes_pb2
from gateway.application.ports import Changes, Person


class FakeChanges(Changes):
    """A feed over a list, whose cursors are numbers. Each subscription takes one fault, and breaks after so many
    changes.
    """

    def __init__(self) -> None:
        self.log: list[changes_pb2.CatalogChange] = []
        self.faults: list[tuple[int, Exception]] = []
        self.requests: list[changes_pb2.SubscribeChangesRequest] = []
        self.people: list[Person] = []
        self.running = 0
        self.told = 0
        self._more = asyncio.Event()

    def add(self, count: int = 1, **fields: object) -> None:
        for _ in range(count):
            number = len(self.log) + 1
            change = changes_pb2.CatalogChange(
                cursor=str(number), sku=f"sku-{number}", type="PriceSet", kind="car", **fields
            )
            change.recorded_at.FromJsonString("2026-11-22T16:30:00.123456Z")
            change.fields.add(field="price.amount", before="null", after='"12.00"')
            self.log.append(change)
        more, self._more = self._more, asyncio.Event()
        more.set()

    async def subscribe(
        self, request: changes_pb2.SubscribeChangesRequest, person: Person
    ) -> AsyncGenerator[changes_pb2.SubscribeChangesResponse, None]:
        asked = changes_pb2.SubscribeChangesRequest()
        asked.CopyFrom(request)
        self.requests.append(asked)
        self.people.append(person)
        left, fault = self.faults.pop(0) if self.faults else (-1, None)
        self.running += 1
        try:
            at = {"start": 0, "cursor": int(asked.cursor or 0)}.get(asked.WhichOneof("from") or "", len(self.log))
            if left:
                yield changes_pb2.SubscribeChangesResponse(cursor=str(at))
            while True:
                more = self._more
                for change in self.log[at:]:
                    if left == 0:
                        break
                    at, left = at + 1, left - 1
                    self.told += 1
                    yield changes_pb2.SubscribeChangesResponse(changes=[change], cursor=change.cursor)
                if fault is not None and left == 0:
                    raise fault
                if asked.only_recorded:
                    return
                await more.wait()
        finally:
            self.running -= 1
