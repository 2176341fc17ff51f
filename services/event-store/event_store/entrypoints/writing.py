"""The writing half of the log on the wire."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import grpc
from almagest.eventstore.v1 import event_store_pb2, event_store_pb2_grpc
from chassis.caller import current_caller
from chassis.deadlines import remaining
from chassis.errors import ErrorTable
from chassis.tokens import METADATA_KEY, Claims, TokenVerifier

from event_store.application.append_loop import Answer, AppendLoop
from event_store.application.shard_map import Places
from event_store.domain.append import Append, Appended
from event_store.domain.errors import BucketMoved, StaleShardMap
from event_store.domain.stream import category_of
from event_store.entrypoints import stream_metadata, wire
from event_store.entrypoints.policy import AUDITOR, WRITE, writes_to
from event_store.entrypoints.wire import Limits

_MAXIMUM_SECONDS = 60.0
if TYPE_CHECKING:
    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
else:  # generic for the type checker only
    Context = Any


class Rerouter(Protocol):
    """Where an append goes that a shard refused because its bucket has moved: it answers the shard that decided, and
    what.
    """

    def __call__(self, append: Append, deadline: float, moved: BucketMoved) -> Coroutine[Any, Any, tuple[int, Answer]]:
        """Have it written where its bucket is now, by its deadline."""
        ...


class WritingServicer(event_store_pb2_grpc.EventStoreServiceServicer):
    """Answers for appends. Errors are raised; the chassis says them by the table."""

    def __init__(
        self,
        *,
        buckets: Places,
        loops: Sequence[AppendLoop],
        verifier: TokenVerifier,
        errors: ErrorTable,
        limits: Limits,
        rerouted: Rerouter | None = None,
    ) -> None:
        self._buckets = buckets
        self._loops = loops
        self._verifier = verifier
        self._errors = errors
        self._limits = limits
        self._rerouted = rerouted

    async def Append(  # noqa: N802 - gRPC's name
        self, request: event_store_pb2.AppendRequest, context: Context
    ) -> event_store_pb2.AppendResponse:
        """Write the appends, each on its own."""
        del context
        wire.check_request(request, self._limits)
        if 0 < request.epoch < self._buckets.epoch:
            raise StaleShardMap(request.epoch, self._buckets.epoch)
        response = event_store_pb2.AppendResponse()
        results = [response.results.add() for _ in request.appends]
        shares = await self._shares(request.appends, results)
        if len(shares) == 1:
            # By far the most usual: one append, or all of one shard.
            [(shard, share)] = shares.items()
            await self._answer(results, shard, share, await self._submit(shard, share))
        elif shares:
            answers = await asyncio.gather(*(self._submit(shard, share) for shard, share in shares.items()))
            for (shard, share), answered in zip(shares.items(), answers, strict=True):
                await self._answer(results, shard, share, answered)
        return response

    async def _shares(
        self, messages: Sequence[event_store_pb2.Append], results: Sequence[event_store_pb2.AppendResult]
    ) -> Mapping[int, "_Share"]:
        """What each shard gets of a request. What is not well formed, or not allowed, is answered here."""
        now = asyncio.get_running_loop().time()
        left = remaining()
        latest = now + (_MAXIMUM_SECONDS if left is None else left)
        caller = current_caller()
        workload, auditing = str(caller), caller.service == AUDITOR
        people: dict[str, Claims | Exception] = {}
        shares: dict[int, _Share] = {}
        for index, message in enumerate(messages):
            try:
                person = None if auditing else people.get(message.transaction_token)
                if person is None and not auditing:
                    person = people[message.transaction_token] = await self._person(message.transaction_token)
                if isinstance(person, Exception):
                    raise person  # noqa: TRY301 - answered below like every other problem of this item
                shard, append = wire.append(message, self._limits, self._buckets, person, workload)
                for category in (append.category, *(part.category for part in append.also)):
                    writes_to(category, auditing=auditing)
            except Exception as error:  # noqa: BLE001 - it answers this item, by the table
                results[index].problem.CopyFrom(self._errors.problem(error))
                continue
            deadline = latest
            if message.HasField("timeout"):
                deadline = min(latest, now + message.timeout.seconds + message.timeout.nanos / 1e9)
            share = shares.get(shard)
            if share is None:
                share = shares[shard] = _Share([], [], [])
            share.indexes.append(index)
            share.appends.append(append)
            share.deadlines.append(deadline)
        return shares

    async def _submit(self, shard: int, share: "_Share") -> Sequence[Answer]:
        return await self._loops[shard].submit(share.appends, share.deadlines)

    async def _person(self, token: str) -> Claims | Exception:
        try:
            claims = await self._verifier.verify(token)
            claims.require(WRITE)
        except Exception as error:  # noqa: BLE001 - the table says it to every item with this token
            return error
        return claims

    async def _answer(
        self, results: Sequence[event_store_pb2.AppendResult], shard: int, share: "_Share", answers: Sequence[Answer]
    ) -> None:
        moved: Mapping[int, tuple[int, Answer]] = {}
        if self._rerouted is not None:
            moved = await self._reroute(share, answers, self._rerouted)
        epoch = self._buckets.epoch
        for number, (index, append, answer) in enumerate(zip(share.indexes, share.appends, answers, strict=True)):
            home, final = moved.get(number, (shard, answer)) if moved else (shard, answer)
            if isinstance(final, Appended):
                wire.fill(results[index].appended, final, epoch=epoch, bucket=append.bucket, shard=home)
            else:
                results[index].problem.CopyFrom(self._errors.problem(final))

    @staticmethod
    async def _reroute(
        share: "_Share", answers: Sequence[Answer], rerouted: Rerouter
    ) -> Mapping[int, tuple[int, Answer]]:
        """Hand on what was refused because its bucket has moved."""
        numbers: list[int] = []
        waiting: list[Coroutine[Any, Any, tuple[int, Answer]]] = []
        for number, answer in enumerate(answers):
            if isinstance(answer, BucketMoved):
                numbers.append(number)
                waiting.append(rerouted(share.appends[number], share.deadlines[number], answer))
        return dict(zip(numbers, await asyncio.gather(*waiting), strict=True)) if numbers else {}

    async def SetStreamMetadata(  # noqa: N802 - gRPC's name
        self, request: event_store_pb2.SetStreamMetadataRequest, context: Context
    ) -> event_store_pb2.SetStreamMetadataResponse:
        """Say how much of a stream is answered, or end it."""
        metadata: dict[str, Any] = dict(context.invocation_metadata() or ())
        person = None
        if METADATA_KEY in metadata:
            person = await self._verifier.verify(metadata[METADATA_KEY])
            person.require(WRITE)
        shard, append = stream_metadata.setting(request, self._limits, self._buckets, person, str(current_caller()))
        writes_to(category_of(request.stream) or "", auditing=False)
        left = remaining()
        deadline = asyncio.get_running_loop().time() + (_MAXIMUM_SECONDS if left is None else left)
        [answer] = await self._submit(shard, _Share([0], [append], [deadline]))
        if isinstance(answer, BucketMoved) and self._rerouted is not None:
            shard, answer = await self._rerouted(append, deadline, answer)
        if isinstance(answer, Exception):
            raise answer
        response = event_store_pb2.SetStreamMetadataResponse(revision=answer.last_revision)
        wire.locate(
            response.position, epoch=self._buckets.epoch, bucket=append.bucket, shard=shard, position=answer.position
        )
        return response


@dataclass(frozen=True, slots=True)
class _Share:
    """The part of a request that one shard gets."""

    indexes: list[int]
    appends: list[Append]
    deadlines: list[float]
