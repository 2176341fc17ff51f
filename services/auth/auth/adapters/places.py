"""Everything that is searched for a forgotten person's traces: our own databases and logs, and what others keep."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from almagest.auth.v1 import privacy_pb2 as wire
from almagest.auth.v1.privacy_pb2_grpc import PersonalDataServiceStub
from chassis.database.pool import Database
from chassis.rpc.channel import Channel
from chassis.searching.database import search_database
from chassis.searching.files import search_files
from chassis.searching.needles import Found, Needles

from auth.domain.erasures import Store, Terms

OURS = "auth"
_LONGEST_SECONDS = 6 * 3600.0


class EveryPlace:
    """`Places` of the use case."""

    def __init__(
        self, *, databases: Sequence[Database], directories: Sequence[Path], channels: Mapping[str, Channel]
    ) -> None:
        self._ours: list[Callable[[Needles], AsyncGenerator[Found]]] = [
            partial(search_database, database) for database in databases
        ]
        if directories:
            self._ours.append(partial(search_files, "logs and traces", directories))
        self._others = {service: PersonalDataServiceStub(channel) for service, channel in channels.items()}

    async def search(self, terms: Terms) -> AsyncGenerator[Store]:
        """Search everywhere, one place after another."""
        needles = Needles(findings=terms.findings, mentions=terms.mentions)
        for search in self._ours:
            async for found in search(needles):
                yield Store(
                    service=OURS,
                    store=found.store,
                    total=found.total,
                    searched=min(found.total, found.searched),
                    findings=found.findings,
                    mentions=found.mentions,
                )
        request = wire.SearchPersonalDataRequest(findings=terms.findings, mentions=terms.mentions)
        for service, stub in self._others.items():
            async for answer in stub.SearchPersonalData(request, timeout=_LONGEST_SECONDS):
                yield Store(
                    service=service,
                    store=answer.store.store,
                    total=answer.store.total,
                    searched=answer.store.searched,
                    findings=answer.store.findings,
                    mentions=answer.store.mentions,
                )
