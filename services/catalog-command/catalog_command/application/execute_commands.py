"""Execute commands on a product: load, already done?, decide, append.

The order of the questions matters. A repeated command is answered as it was the first time, so "already done?" comes
before any refusal: a creation that is sent twice must not hear that the product exists. The log settles this for
every append by its id, at no cost. What is refused or changes nothing never gets there, so for that the product's
past is looked at, which the last appends of a folded state mostly tell without a call.

Commands on one product queue up here, within this process: ten writers of one product then make ten appends, not ten
conflicts. Other replicas are met at the revision check.
"""

import asyncio
import random
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeGuard

from catalog_events import Event
from chassis.errors import DeadlineExceeded

from catalog_command.application.errors import CommandIdReused, OutcomeUnknown, RevisionConflict, TooContended
from catalog_command.application.known_products import UNKNOWN, KnownProduct, KnownProducts
from catalog_command.application.product_log import (
    NO_REVISION,
    AppendIdReused,
    AppendUncertain,
    ProductAppend,
    ProductLog,
    Provenance,
    StreamConflict,
    Written,
)
from catalog_command.domain.commands import (
    ActivateSchedule,
    CorrectPrice,
    CreateProduct,
    ProductCommand,
    PutProduct,
    RestoreProduct,
)
from catalog_command.domain.errors import DomainError, ProductNotFound
from catalog_command.domain.product import Product, decide, fold
from catalog_command.domain.restoration import earlier

ATTEMPTS = 5
"""How often a decision is made before others are left to have their way."""
LONGEST_PAUSE = 0.05
"""Seconds, at most, between a second conflict and the next decision; it doubles with each."""
LONG_TALE = 100
"""From how many events on the state that they were folded into is kept."""
APPEND_SHARE = 0.8
"""The share of the time left that an append gets; the rest is for finding out what became of it."""


class Decision(NamedTuple):
    """What is to happen, and what the product is afterwards."""

    events: Sequence[Event]
    product: Product


Refusal = DomainError | RevisionConflict
"""Why nothing is done, which is as final as the state that it was decided on."""


@dataclass(frozen=True, slots=True)
class Execute:
    """What is to be done to one product, all or none.

    Attributes:
        expected_revision: the revision that the caller saw; None: whatever it is.
        deadline: on the clock of `time.monotonic`.
    """

    command_id: str
    product_id: str
    commands: Sequence[ProductCommand]
    fingerprint: bytes
    transaction_token: str
    deadline: float
    provenance: Provenance
    expected_revision: int | None = None
    dry_run: bool = False

    def remaining(self) -> float:
        """The seconds left.

        Raises:
            DeadlineExceeded: None are.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded
        return left

    def deadline_of(self, share: float) -> float:
        """When a share of the time left is over."""
        return self.deadline - self.remaining() * (1 - share)


@dataclass(frozen=True, slots=True)
class Executed:
    """What was done, and where the product stands.

    Attributes:
        consistency_token: where its last change stands in the log; empty on a dry run that would change something.
        replayed: it had been done before, and this is the original answer.
    """

    revision: int
    consistency_token: str
    changed: bool = False
    created: bool = False
    replayed: bool = False


class ExecuteCommands:
    """The use case. It lives as long as the process, which remembers products through it."""

    def __init__(self, *, log: ProductLog, products: KnownProducts) -> None:
        self._log = log
        self._products = products
        self._queues: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def __call__(self, request: Execute) -> Executed:
        """Do it.

        Raises:
            DomainError: The domain refuses it.
            RevisionConflict: The product is not at the revision that the caller saw.
            CommandIdReused: The command id belongs to another request.
            TooContended: Others were faster, each time.
            OutcomeUnknown: It may have been written; the same command id can safely be sent again.
            ChassisError: The log cannot be reached, or there is no time left. Nothing was written.
        """
        queue = self._queues.get(request.product_id)
        if queue is None:
            queue = self._queues[request.product_id] = asyncio.Lock()
            await queue.acquire()
        else:
            try:
                async with asyncio.timeout(request.remaining()):
                    await queue.acquire()
            except TimeoutError:
                raise DeadlineExceeded from None
        try:
            return await self._execute(request)
        finally:
            queue.release()

    async def _execute(self, request: Execute) -> Executed:
        request = await self._with_earlier_states(request)
        known, current = await self._first_look(request)
        for attempt in range(ATTEMPTS):
            decision = _decision(request, known)
            if not current and not _is_to_be_written(decision, request):
                known, current = await self._looked_up(request, known), True
                decision = _decision(request, known)
            if not _is_to_be_written(decision, request):
                return await self._unwritten(request, known, decision)
            try:
                return await self._append(request, known, decision)
            except StreamConflict:
                if attempt:
                    pause = LONGEST_PAUSE * 2 ** (attempt - 1)
                    await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - jitter is no secret
                known, current = await self._looked_up(request, known), True
        raise TooContended(ATTEMPTS)

    async def _first_look(self, request: Execute) -> tuple[KnownProduct, bool]:
        """What to decide on at first, and whether it is what the log has now."""
        if any(isinstance(command, ActivateSchedule | CorrectPrice) for command in request.commands):
            # These go by when the log wrote things, which is not known of what was written and not read back.
            return await self._looked_up(request, UNKNOWN), True
        known = self._products.get(request.product_id)
        if known is not None:
            return known, False
        # A creation is most often of something new: it is decided blindly, and the log corrects it.
        if _may_create(request) and not request.dry_run and request.expected_revision is None:
            return UNKNOWN, False
        return await self._looked_up(request, UNKNOWN), True

    async def _with_earlier_states(self, request: Execute) -> Execute:
        """The request, in which restorations know what they restore. That is in the past, and so the same for good."""
        if not any(isinstance(command, RestoreProduct) for command in request.commands):
            return request
        history = await self._log.read(request.product_id, after=NO_REVISION, deadline=request.deadline)
        commands: list[ProductCommand] = []
        for command in request.commands:
            if isinstance(command, RestoreProduct) and history.events:
                commands.append(replace(command, earlier=earlier(history.events, command.revision)))
            else:
                commands.append(command)
        return replace(request, commands=commands)

    async def _looked_up(self, request: Execute, known: KnownProduct) -> KnownProduct:
        """The product as the log has it now."""
        if known is UNKNOWN:
            return await self._loaded(request)
        history = await self._log.read(request.product_id, after=known.revision, deadline=request.deadline)
        known = known.followed_by(history)
        self._products.put(request.product_id, known)
        return known

    async def _loaded(self, request: Execute) -> KnownProduct:
        """The product as the log tells it from the beginning. A long tale is not to be told again."""
        history = await self._log.load(request.product_id, deadline=request.deadline)
        known = UNKNOWN.followed_by(history)
        self._products.put(request.product_id, known)
        if len(history.events) >= LONG_TALE:
            self._log.keep(
                request.product_id, known.product, revision=known.revision, consistency_token=known.consistency_token
            )
        return known

    async def _unwritten(self, request: Execute, known: KnownProduct, decision: Decision | Refusal) -> Executed:
        """The answer to what is refused, changes nothing, or is only asked for trial."""
        done = known.append_of(request.command_id)
        if done is None and not known.all_appends:
            done = await self._find(request)
        if done is not None:
            return await self._original(request, done)
        if not isinstance(decision, Decision):
            raise decision
        if not decision.events:
            return Executed(known.revision, known.consistency_token)
        return Executed(known.revision + len(decision.events), "", changed=True, created=known.revision < 0)

    async def _append(self, request: Execute, known: KnownProduct, decision: Decision) -> Executed:
        append = ProductAppend(
            append_id=request.command_id,
            product_id=request.product_id,
            expected_revision=known.revision,
            events=decision.events,
            fingerprint=request.fingerprint,
            transaction_token=request.transaction_token,
            provenance=request.provenance,
        )
        ours = False
        try:
            try:
                written = await self._log.append(append, deadline=request.deadline_of(APPEND_SHARE))
            except AppendUncertain:
                written, ours = await self._resolved(request, append), True
        except AppendIdReused:
            raise CommandIdReused from None
        if written.replayed or ours:
            # What was written then was decided on another state than the one known here.
            self._products.forget(request.product_id)
            _require_fingerprint(request, written)
        else:
            self._products.put(request.product_id, known.written(decision.product, written))
        return _executed(written, replayed=written.replayed and not ours)

    async def _resolved(self, request: Execute, append: ProductAppend) -> Written:
        """The answer to an append that was not answered.

        Sending it again is safe: whichever of the two comes first is written, and the other gets its answer. Unlike a
        question by its id, it travels together with all others; after an outage there are many at once.
        """
        try:
            return await self._log.append(append, deadline=request.deadline)
        except (StreamConflict, AppendIdReused):
            raise
        except Exception:  # noqa: BLE001 - whatever keeps the log from saying, the outcome is unknown
            raise OutcomeUnknown from None

    async def _find(self, request: Execute) -> Written | None:
        return await self._log.find(request.command_id, product_id=request.product_id, deadline=request.deadline)

    async def _original(self, request: Execute, done: Written) -> Executed:
        """The answer that the same command got the first time."""
        if done.fingerprint is None:
            done = await self._find(request) or done
        _require_fingerprint(request, done)
        return _executed(done, replayed=True)


def _executed(written: Written, *, replayed: bool) -> Executed:
    return Executed(
        revision=written.last_revision,
        consistency_token=written.consistency_token,
        changed=True,
        created=written.first_revision == 0,
        replayed=replayed,
    )


def _may_create(request: Execute) -> bool:
    return isinstance(request.commands[0], CreateProduct | PutProduct)


def _require_fingerprint(request: Execute, written: Written) -> None:
    if written.fingerprint is not None and written.fingerprint != request.fingerprint:
        raise CommandIdReused


def _is_to_be_written(decision: Decision | Refusal, request: Execute) -> TypeGuard[Decision]:
    return not request.dry_run and isinstance(decision, Decision) and bool(decision.events)


def _decision(request: Execute, known: KnownProduct) -> Decision | Refusal:
    """What the request's commands, one after the other, make happen; or why one, and so all of them, are refused."""
    if request.expected_revision is not None and request.expected_revision != known.revision:
        if known.revision < 0 and not _may_create(request):
            return ProductNotFound()
        return RevisionConflict(expected=request.expected_revision, actual=known.revision)
    product, events = known.product, list[Event]()
    for index, command in enumerate(request.commands):
        try:
            decided = decide(product, command)
        except DomainError as error:
            error.command = index
            return error
        product = fold(product, decided)
        events += decided
    return Decision(events, product)
