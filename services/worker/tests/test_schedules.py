"""Carrying out what is due: in order, once, on behalf of who planned it; and what is refused is told, not lost."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from almagest.catalog.v1 import command_pb2, schedules_pb2
from almagest.rpc.v1 import problem_pb2
from chassis.errors import RemoteProblem, Unavailable
from google.protobuf.timestamp_pb2 import Timestamp
from worker.application.schedules import ActivateSchedules
from worker.entrypoints.schedules import Clockwork

EVE, ADA = str(uuid.uuid4()), str(uuid.uuid4())


def problem(code: grpc.StatusCode, reason: str) -> problem_pb2.Problem:
    return problem_pb2.Problem(code=code.value[0], reason=reason, message="x")


def schedule(at: float, *, by: str = EVE, price: bool = True) -> schedules_pb2.Schedule:
    one = schedules_pb2.Schedule(
        schedule_id=str(uuid.uuid4()), product_id=str(uuid.uuid4()), scheduled_by=by, reason="a sale"
    )
    one.effective_at.FromNanoseconds(int((time.time() + at) * 1e9))
    if price:
        one.price.amount = "1.00"
    else:
        one.published = True
    return one


class World:
    """The list, the catalog and auth, which do as they are told.

    Attributes:
        open: what is planned; an activation takes it off, unless `slow` says that the list hears of that later.
        refusals: by schedule id, or by the user id of who planned it, why it is refused.
        carried_out: the schedules in the order in which the catalog was asked.
    """

    def __init__(self) -> None:
        self.open: list[schedules_pb2.Schedule] = []
        self.refusals: dict[str, problem_pb2.Problem] = {}
        self.reported: list[schedules_pb2.RefusedSchedule] = []
        self.carried_out: list[str] = []
        self.items: list[command_pb2.CommandItem] = []
        self.asked_for: list[tuple[str, str]] = []
        self.slow = False
        self.away: Exception | None = None
        self.looks = 0
        self.activated = asyncio.Event()

    def activate(self) -> ActivateSchedules:
        return ActivateSchedules(
            plans=self, catalog=self, tokens_of=lambda *asked: _Tokens(self, *asked), call_seconds=5
        )

    async def due(self, limit: int) -> schedules_pb2.ListDueSchedulesResponse:
        self.looks += 1
        if self.away is not None:
            error, self.away = self.away, None
            raise error
        now = Timestamp()
        now.GetCurrentTime()
        due = [one for one in self.open if one.effective_at.ToNanoseconds() <= now.ToNanoseconds()]
        coming = [one for one in self.open if one not in due]
        answer = schedules_pb2.ListDueSchedulesResponse(schedules=due[:limit])
        if coming:
            answer.next_at.FromNanoseconds(min(one.effective_at.ToNanoseconds() for one in coming))
        return answer

    async def refused(self, refusals: Sequence[schedules_pb2.RefusedSchedule]) -> None:
        self.reported += refusals
        ids = {one.schedule_id for one in refusals}
        self.open = [one for one in self.open if one.schedule_id not in ids]

    async def execute(
        self, items: Sequence[command_pb2.CommandItem], *, timeout: float
    ) -> Sequence[command_pb2.CommandResult]:
        assert timeout > 0
        self.items += items
        results: list[command_pb2.CommandResult] = []
        for item in items:
            schedule_id = item.commands[0].activate_schedule.schedule_id
            if schedule_id in self.refusals:
                results.append(command_pb2.CommandResult(problem=self.refusals[schedule_id]))
                continue
            self.carried_out.append(schedule_id)
            results.append(command_pb2.CommandResult(executed=command_pb2.Executed(changed=True)))
            if not self.slow:
                self.open = [one for one in self.open if one.schedule_id != schedule_id]
        self.activated.set()
        return results


class _Tokens:
    def __init__(self, world: World, user_id: str, schedule_id: str) -> None:
        self._world = world
        self._user_id = user_id
        world.asked_for.append((user_id, schedule_id))

    async def token(self) -> str:
        if self._user_id in self._world.refusals:
            raise RemoteProblem(self._world.refusals[self._user_id])
        return f"token of {self._user_id}"

    def forget(self) -> None:
        raise AssertionError("these are not kept")


@pytest.fixture
def world() -> World:
    return World()


async def once(world: World, activate: ActivateSchedules | None = None) -> Any:
    activate = activate or world.activate()
    return await activate.carry_out((await activate.look()).schedules, "00-trace")


async def test_what_is_due_is_carried_out_in_the_order_of_time_the_price_first(world):
    """A worker that was away brings everything in the order in which it should have come."""
    late, early = schedule(-10), schedule(-30)
    publish, price = schedule(-20, price=False), schedule(-20)
    price.effective_at.CopyFrom(publish.effective_at)
    world.open = [late, publish, price, schedule(60), early]
    outcome = await once(world)
    assert world.carried_out == [one.schedule_id for one in (early, price, publish, late)]
    assert len(outcome.delays) == 4
    assert 29 < outcome.delays[0] < 60


async def test_each_is_asked_for_under_one_id_with_the_right_of_who_planned_it(world):
    """Whichever worker asks, and however often, it is one command; a person's token is asked for once a round."""
    world.open = [schedule(-3), schedule(-2, by=ADA), schedule(-1)]
    world.slow = True
    await once(world)
    await once(world)
    assert [item.command_id for item in world.items[:3]] == [item.command_id for item in world.items[3:]]
    assert len({item.command_id for item in world.items}) == 3
    assert [item.transaction_token for item in world.items[:3]] == [f"token of {who}" for who in (EVE, ADA, EVE)]
    assert [who for who, _ in world.asked_for] == [EVE, ADA] * 2
    assert {item.reason for item in world.items} == {"a sale"}


async def test_what_was_carried_out_is_not_sent_again_while_the_list_lags(world):
    """The list hears of it a moment later than the worker does."""
    world.slow = True
    world.open = [schedule(-1)]
    activate = world.activate()
    await once(world, activate)
    assert (await activate.look()).schedules == []


async def test_who_lost_the_right_keeps_their_plans_from_coming_and_nobody_elses(world):
    """The refusal is told by schedule; the others come."""
    world.refusals[EVE] = problem(grpc.StatusCode.PERMISSION_DENIED, "SCOPES_NOT_HELD")
    kept, other = schedule(-2), schedule(-1, by=ADA)
    world.open = [kept, other]
    outcome = await once(world)
    assert world.carried_out == [other.schedule_id]
    (reported,) = world.reported
    assert (reported.schedule_id, reported.product_id) == (kept.schedule_id, kept.product_id)
    assert reported.problem.reason == "SCOPES_NOT_HELD"
    assert outcome.refused == world.reported
    assert outcome.waiting == 0


async def test_what_passes_is_tried_again_and_told_to_nobody(world):
    """A service that is away, a conflict, a clock that is behind: no refusal."""
    away, early, lost = schedule(-4), schedule(-3), schedule(-2, by=ADA)
    world.refusals[away.schedule_id] = problem(grpc.StatusCode.UNAVAILABLE, "TOO_CONTENDED")
    world.refusals[early.schedule_id] = problem(grpc.StatusCode.FAILED_PRECONDITION, "SCHEDULE_NOT_DUE")
    world.refusals[ADA] = problem(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
    world.open = [away, early, lost]
    outcome = await once(world)
    assert (outcome.waiting, world.reported, world.carried_out) == (3, [], [])
    world.refusals.clear()
    await once(world)
    assert world.carried_out == [one.schedule_id for one in (away, early, lost)]


async def test_what_the_catalog_refuses_is_told(world):
    """A publication whose price has not come yet stays open, with its reason."""
    one = schedule(-1, price=False)
    world.refusals[one.schedule_id] = problem(grpc.StatusCode.FAILED_PRECONDITION, "EARLIER_SCHEDULE_OPEN")
    world.open = [one]
    await once(world)
    assert [refused.problem.reason for refused in world.reported] == ["EARLIER_SCHEDULE_OPEN"]


@pytest.mark.parametrize(
    "away",
    [Unavailable(), RemoteProblem(problem(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE"))],
    ids=lambda e: type(e).__name__,
)
async def test_the_clockwork_wakes_when_something_is_due_and_survives_a_list_that_is_away(world, away):
    """Long before its next regular look, and not before the time."""
    world.away = away
    due = schedule(0.4)
    world.open = [due]
    task = asyncio.create_task(Clockwork(world.activate(), poll=30).run())
    try:
        await asyncio.wait_for(world.activated.wait(), 20)
        late = time.time() - due.effective_at.ToNanoseconds() / 1e9
        assert 0 <= late < 20
        assert world.carried_out == [due.schedule_id]
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
