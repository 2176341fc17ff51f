"""What operators may do with projections, over all shards of the read model.

A rebuild and a switch are done shard by shard, each shard in one transaction. Whatever ends in between, asking again
goes on where it ended: what is done already is found done.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from catalog_query.adapters.drift import Drifted, DriftTable
from catalog_query.adapters.generations import GenerationsShard
from catalog_query.adapters.parked import Parked, ParkedEvents
from catalog_query.adapters.postgres import ReadModelShard
from catalog_query.application.lag import Lag
from catalog_query.application.shards import Shards
from catalog_query.domain.comparisons import Comparison, Difference
from catalog_query.domain.errors import (
    GenerationNotReady,
    GenerationsDiffer,
    GenerationServes,
    TooManyGenerations,
    UnknownGeneration,
    UnknownParkedEvent,
    UnknownProjection,
)
from catalog_query.domain.product import stream_of
from catalog_query.domain.projection import PRODUCTS, Generation, Pointer, Target
from catalog_query.projections import repair
from catalog_query.projections.checks import Check, WholeStreams
from catalog_query.projections.projection import Projection
from catalog_query.projections.supervisor import Projections

_MOST_BEHIND = 1_000
"""How many positions a generation may be behind when it is switched to. Reads stay where they are until it has them."""
_MOST_RETRIED = 200
_NO_ID = UUID(int=0)


@dataclass(frozen=True, slots=True)
class GenerationStatus:
    """What one shard of the read model knows of a generation."""

    read_shard: int
    generation: Generation
    serving: bool
    lags: Sequence[Lag]
    held: int
    drifted: int
    comparison: Comparison | None


class Operations:
    """Looks after the projections."""

    def __init__(
        self,
        *,
        projections: Projections,
        known: Mapping[str, Projection],
        shards: Shards,
        read_models: Sequence[ReadModelShard],
        log: WholeStreams,
        checks: Sequence[Check],
    ) -> None:
        self._projections = projections
        self._checks = {check.name: check for check in checks}
        self._known = known
        self._shards = shards
        self._read_models = read_models
        self._generations = [GenerationsShard(shard) for shard in read_models]
        self._parked = [ParkedEvents(shard) for shard in read_models]
        self._log = log

    async def status(self, name: str = "") -> Mapping[str, Sequence[GenerationStatus]]:
        """Every generation of a projection, or of all, in every shard."""
        if name:
            self._projection(name)
        lags = await self._projections.all_lags()
        found: dict[str, list[GenerationStatus]] = {one: [] for one in sorted(self._known) if name in ("", one)}
        for read_shard, shard in enumerate(self._read_models):
            for pointer in await shard.pointers():
                for generation in pointer.generations if pointer.projection in found else ():
                    target = generation.target
                    found[pointer.projection].append(
                        GenerationStatus(
                            read_shard=read_shard,
                            generation=generation,
                            serving=target.generation == pointer.serving,
                            lags=[one for one in lags if (one.target, one.read_shard) == (target, read_shard)],
                            held=len((await shard.progress(target)).held),
                            drifted=await self._generations[read_shard].drifted(target),
                            comparison=await self._generations[read_shard].comparison(target),
                        )
                    )
        return found

    async def parked(
        self, name: str, *, after: tuple[int, UUID], size: int
    ) -> tuple[Sequence[tuple[int, Parked]], tuple[int, UUID] | None]:
        """A page of what is parked, with its shard, and the place to go on from."""
        self._projection(name)
        found: list[tuple[int, Parked]] = []
        shard, last = after
        for read_shard in range(shard, len(self._parked)):
            begin = last if read_shard == shard else _NO_ID
            rows = await self._parked[read_shard].page(name, after=begin, limit=size + 1 - len(found))
            found.extend((read_shard, row) for row in rows)
            if len(found) > size:
                read_shard, row = found[size - 1]  # noqa: PLW2901 - where the page ends
                return found[:size], (read_shard, row.parked_id)
        return found, None

    async def retry(self, name: str, parked_id: UUID | None) -> tuple[int, int, Sequence[tuple[int, Parked]]]:
        """Try one parked event again, or all: how many streams go on, how many do not, and some of those.

        Raises:
            UnknownParkedEvent: there is no such one.
            ExceptionsMoved: a stream grows faster than it can be read.
        """
        applied = still = 0
        left: list[tuple[int, Parked]] = []
        after: tuple[int, UUID] | None = (0, _NO_ID)
        while after is not None:
            if parked_id is None:
                page, after = await self.parked(name, after=after, size=_MOST_RETRIED)
            else:
                page, after = [await self._one(name, parked_id)], None
            for read_shard, parked in page:
                now = await repair.retry(self._known[name], self._read_models[read_shard], self._log, parked)
                if now is None:
                    applied += 1
                    continue
                still += 1
                if len(left) < _MOST_RETRIED:
                    left.append((read_shard, now))
        await self._projections.refresh()
        return applied, still, left

    async def skip(self, name: str, parked_id: UUID, *, actor: str, reason: str) -> tuple[int, Parked] | None:
        """Leave a parked event out, and go on behind it. The next event of the stream that cannot be applied, if any.

        Raises:
            UnknownParkedEvent: there is no such one.
        """
        read_shard, parked = await self._one(name, parked_id)
        await self._parked[read_shard].skip(parked, actor=actor, reason=reason)
        now = await repair.retry(self._known[name], self._read_models[read_shard], self._log, parked)
        await self._projections.refresh()
        return None if now is None else (read_shard, now)

    async def _one(self, name: str, parked_id: UUID) -> tuple[int, Parked]:
        self._projection(name)
        for read_shard, table in enumerate(self._parked):
            if (parked := await table.get(name, parked_id)) is not None:
                return read_shard, parked
        raise UnknownParkedEvent(str(parked_id))

    async def rebuild(self, name: str, *, by: str) -> tuple[int, bool]:
        """Begin a new generation in every shard, or find the one that was begun: its number, and whether it is new.

        Raises:
            TooManyGenerations: there is an older one beside the one that is read.
        """
        pointers = await self._pointers(name)
        newer = {
            one.target.generation
            for pointer in pointers
            for one in pointer.generations
            if one.target.generation > pointer.serving
        }
        if not newer:
            for pointer in pointers:
                for generation in pointer.generations:
                    if generation.target.generation != pointer.serving:
                        raise TooManyGenerations(generation.target)
        number = max(newer) if newer else max(pointer.latest for pointer in pointers) + 1
        created = [await shard.create(Target(name, number), by=by) for shard in self._generations]
        await self._projections.refresh()
        return number, all(created)

    async def compare(self, target: Target) -> None:
        """Let a generation be compared with the one that is read, anew: whatever replica sees that it is not does it.

        Raises:
            UnknownGeneration: there is no such one.
            GenerationServes: it is the one that is read.
            GenerationNotReady: it is not filled and indexed, or older than the one that is read.
        """
        for read_shard, pointer in enumerate(await self._pointers(target.projection)):
            _require(pointer, target)
            if pointer.serving == target.generation:
                raise GenerationServes(target)
            if pointer.serving > target.generation:
                raise GenerationNotReady(target, "it is older than the one that is read")
            await self._generations[read_shard].require_ready(target, behind=_MOST_BEHIND)
        for shard in self._generations:
            await shard.forget_comparison(target)
        await self._projections.refresh()

    async def differences(
        self, target: Target, *, after: tuple[int, str, str], size: int
    ) -> tuple[Sequence[Difference], tuple[int, str, str] | None, Comparison | None]:
        """A page of what the last comparison found, the place to go on from, and the counts of all.

        Raises:
            UnknownGeneration: there is no such one.
        """
        for pointer in await self._pointers(target.projection):
            _require(pointer, target)
        found: list[tuple[int, Difference]] = []
        shard, *last = after
        for read_shard in range(shard, len(self._generations)):
            key, field = last if read_shard == shard else ("", "")
            rows = await self._generations[read_shard].differences(
                target, after=(key, field), limit=size + 1 - len(found)
            )
            found.extend((read_shard, row) for row in rows)
            if len(found) > size:
                break
        comparisons = [await one.comparison(target) for one in self._generations]
        known = [one for one in comparisons if one is not None]
        together = _together(known) if len(known) == len(comparisons) else None
        page = [row for _, row in found[:size]]
        if len(found) <= size:
            return page, None, together
        read_shard, row = found[size - 1]
        return page, (read_shard, row.key, row.field), together

    async def switch(self, target: Target, *, by: str, accepted: frozenset[str], force: bool) -> int:
        """Let reads go to a generation. The one that was read before.

        Raises:
            UnknownGeneration: there is no such one.
            GenerationNotReady: it is not filled and indexed in every shard, or too far behind.
            GenerationsDiffer: it is a newer one, and differs in what nobody said that it should.
        """
        pointers = await self._pointers(target.projection)
        for read_shard, pointer in enumerate(pointers):
            await self._generations[read_shard].require_ready(target, behind=_MOST_BEHIND)
            if target.generation > pointer.serving and not force:
                self._explain(target, pointer, await self._generations[read_shard].comparison(target), accepted)
        previous = [await one.switch(target, by=by, behind=_MOST_BEHIND) for one in self._generations]
        await self._projections.refresh()
        return next((one for one in previous if one != target.generation), target.generation)

    @staticmethod
    def _explain(target: Target, pointer: Pointer, found: Comparison | None, accepted: frozenset[str]) -> None:
        if found is None or found.against != pointer.serving:
            raise GenerationsDiffer(target, "it has not been compared with the one that is read")
        if found.unexplained(accepted):
            what = ", ".join(
                f"{field} in {rows}" for field, rows in sorted(found.fields.items()) if field not in accepted
            )
            rows = f"{found.missing} rows are missing, {found.extra} are extra"
            raise GenerationsDiffer(target, f"{rows}, {what or 'no field differs'}")

    async def drop(self, target: Target) -> None:
        """Drop a generation.

        Raises:
            UnknownGeneration: there is no such one.
            GenerationServes: it is read.
        """
        pointers = await self._pointers(target.projection)
        for pointer in pointers:
            if pointer.serving == target.generation:
                raise GenerationServes(target)
        dropped = [await one.drop(target) for one in self._generations]
        await self._projections.refresh()
        if not any(dropped):
            raise UnknownGeneration(target)

    async def drift(
        self, name: str, *, after: tuple[int, UUID], size: int
    ) -> tuple[Sequence[tuple[int, Drifted]], tuple[int, UUID] | None]:
        """A page of what has drifted in the generations that are read."""
        found: list[tuple[int, Drifted]] = []
        shard, last = after
        for read_shard, pointer in enumerate(await self._pointers(name)):
            if read_shard < shard:
                continue
            table = DriftTable(self._read_models[read_shard], Target(name, pointer.serving))
            begin = last if read_shard == shard else _NO_ID
            rows = await table.page(after=begin, limit=size + 1 - len(found))
            found.extend((read_shard, row) for row in rows)
            if len(found) > size:
                read_shard, row = found[size - 1]  # noqa: PLW2901 - where the page ends
                return found[:size], (read_shard, row.product_id)
        return found, None

    async def repair(self, product_id: UUID, *, forget_skipped: bool) -> tuple[int | None, int]:
        """Write the rows of one product as its events say, in every generation that can be read.

        Returns:
            The revision of the rows, None when there are none any more, and how many were others before.
        """
        read_shard = self._shards.read_shard_of(str(product_id))
        shard = self._read_models[read_shard]
        if forget_skipped:
            for name in self._checks:
                await self._parked[read_shard].forget_skipped(name, stream_of(str(product_id)))
        revision: int | None = None
        changed = 0
        for pointer in await shard.pointers():
            for generation in pointer.generations if pointer.projection in self._checks else ():
                if generation.ready:
                    check = self._checks[pointer.projection]
                    now, was_other = await check.repair(shard, generation.target, product_id)
                    changed += was_other
                    if generation.target == Target(PRODUCTS, pointer.serving):
                        revision = now
        return revision, changed

    def _projection(self, name: str) -> Projection:
        try:
            return self._known[name]
        except KeyError:
            raise UnknownProjection(name) from None

    async def _pointers(self, name: str) -> Sequence[Pointer]:
        self._projection(name)
        return [
            next(pointer for pointer in await shard.pointers() if pointer.projection == name)
            for shard in self._read_models
        ]


def _require(pointer: Pointer, target: Target) -> None:
    if all(generation.target != target for generation in pointer.generations):
        raise UnknownGeneration(target)


def _together(found: Sequence[Comparison]) -> Comparison:
    fields: Counter[str] = Counter()
    for one in found:
        fields.update(one.fields)
    return replace(
        found[0],
        compared=sum(one.compared for one in found),
        missing=sum(one.missing for one in found),
        extra=sum(one.extra for one in found),
        different=sum(one.different for one in found),
        fields=dict(fields),
        began_at=min(one.began_at for one in found),
        ended_at=max(one.ended_at for one in found),
    )
