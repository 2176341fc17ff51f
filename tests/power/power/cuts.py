"""Append, cut the power, look what is left; again and again."""

import asyncio
import base64
import contextlib
import random
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
from chaos import chain
from chassis.buckets import stream_bucket
from chassis.database.pool import Database
from event_store.adapters.postgres import PostgresLog
from event_store.application.append_loop import Answer, AppendLoop, Bounds, Ticket
from event_store.application.heads import Heads
from event_store.domain.append import ANY, Append, Appended, NewEvent

from power.machine import DATABASE, ROLE, Machine

_WRITERS: Final = 12
_STREAMS: Final = 40
_IN_RECOVERY: Final = 0.2
"""Of all cuts, the share that comes while Postgres recovers from the one before."""


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        cuts: how often the power was cut.
        in_recovery: how many of the cuts came while Postgres was starting.
        checkpoints: how many checkpoints were asked for.
        acknowledged: how many appends were.
        wrong: in words, what should not be; the first finding ends the series.
        pages: how many written pages were lost.
        names: how many changes of names were lost.
    """

    cuts: int = 0
    in_recovery: int = 0
    checkpoints: int = 0
    acknowledged: int = 0
    wrong: list[str] = field(default_factory=list[str])
    pages: int = 0
    names: int = 0


class Silent:
    """Nobody watches the append loop here."""

    def queued(self, shard: int, appends: int) -> None:
        """So many appends wait."""

    def batch(
        self, shard: int, tickets: Sequence[Ticket], answers: Sequence[Answer], began_ns: int, ended_ns: int
    ) -> None:
        """A transaction ended."""


class Series:
    """A series of cuts on one machine."""

    def __init__(self, machine: Machine, *, seed: int) -> None:
        self.outcome = Outcome()
        self._machine = machine
        self._chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self._acknowledged: dict[uuid.UUID, int] = {}
        self._position = 0
        self._hash = chain.GENESIS

    async def run(self, cuts: int) -> Outcome:
        """Cut the power so often, or until something is wrong. At the end, everything is looked at from the beginning."""
        outcome = self.outcome
        await self._machine.on()
        while outcome.cuts < cuts and not outcome.wrong:
            await self._work()
            await self._cut()
            if self._chance.random() < _IN_RECOVERY and outcome.cuts < cuts:
                await self._machine.on_for(self._chance.uniform(0.02, 0.5))
                await self._cut()
                outcome.in_recovery += 1
            try:
                await self._machine.on()
                await self._look()
            except Exception as error:  # noqa: BLE001 - a database that does not come up is what is looked for
                outcome.wrong.append(f"after cut {outcome.cuts}: {type(error).__name__}: {error}")
        if not outcome.wrong:
            self._position, self._hash = 0, chain.GENESIS
            await self._look()
        return outcome

    async def _cut(self) -> None:
        survives = self._chance.choice((0.0, 0.0, 0.3, 0.9))
        told = await self._machine.cut(seed=self._chance.getrandbits(32), survives=survives)
        self.outcome.cuts += 1
        self.outcome.pages, self.outcome.names = told["pages"], told["names"]

    async def _work(self) -> None:
        """Append with many in flight for a moment, sometimes across a checkpoint; ends just before the cut."""
        async with self._loop() as loop:
            tasks = [asyncio.create_task(self._write(loop, number)) for number in range(_WRITERS)]
            if self._chance.random() < 0.5:
                tasks.append(asyncio.create_task(self._checkpoint(self._chance.uniform(0, 0.4))))
            await asyncio.sleep(self._chance.uniform(0.05, 0.8))
            await asyncio.to_thread(self._machine.postgres.kill)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @asynccontextmanager
    async def _loop(self) -> AsyncGenerator[AppendLoop]:
        database = await Database.open(self._machine.postgres.dsn(DATABASE, ROLE), name=DATABASE, size=2)
        loop = AppendLoop(
            0, PostgresLog(database, 0), heads=Heads(1), observer=Silent(), bounds=Bounds(settle_seconds=0.01)
        )
        running = asyncio.create_task(loop.run())
        try:
            yield loop
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            await database.close()

    async def _write(self, loop: AppendLoop, number: int) -> None:
        count = 0
        while True:
            count += 1
            append = self._append(f"power-{(number * 7 + count) % _STREAMS}", self._chance.randint(1, 4))
            answers = await loop.submit([append], [asyncio.get_running_loop().time() + 5])
            if not isinstance(answers[0], Appended):
                return
            self._acknowledged[uuid.UUID(append.append_id)] = answers[0].position
            self.outcome.acknowledged += 1

    def _append(self, stream: str, events: int) -> Append:
        new = [
            NewEvent(str(uuid.uuid4()), "almagest.power.v1.Written", self._chance.randbytes(200), b"")
            for _ in range(events)
        ]
        return Append(str(uuid.uuid4()), stream, "power", stream_bucket(stream), ANY, b"power", new, 300 * events)

    async def _checkpoint(self, after: float) -> None:
        await asyncio.sleep(after)
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            connection = await asyncpg.connect(self._machine.postgres.superuser_dsn(DATABASE), timeout=5)
            self.outcome.checkpoints += 1
            try:
                await connection.execute("CHECKPOINT")
            finally:
                connection.terminate()

    async def _look(self) -> None:
        """What was acknowledged is there, where it was answered to be; positions are gapless, the chain is whole."""
        wrong = self.outcome.wrong
        connection = await asyncpg.connect(self._machine.postgres.superuser_dsn(DATABASE), timeout=30)
        try:
            rows = await connection.fetch("SELECT append_id, position FROM appends")
            there = {row["append_id"]: row["position"] for row in rows}
            for append_id, position in self._acknowledged.items():
                if there.get(append_id) != position:
                    wrong.append(
                        f"append {append_id} was answered position {position}, and is at {there.get(append_id)}"
                    )
            events = await connection.fetch(
                "SELECT * FROM events WHERE position > $1 ORDER BY position", self._position
            )
            for row in events:
                self._follow(dict(zip(chain.COLUMNS, chain.line(row), strict=True)))
            head: Any = await connection.fetchrow("SELECT position, hash FROM head")
            if (head["position"], head["hash"]) != (self._position, self._hash):
                wrong.append(f"the head is {head['position']}, the last event {self._position}")
        finally:
            await connection.close()

    def _follow(self, row: dict[str, Any]) -> None:
        position, wrong = row["position"], self.outcome.wrong
        if position != self._position + 1:
            wrong.append(f"position {position} follows {self._position}")
        right = chain.hash_after(self._hash, row)
        if right != base64.b64decode(row["hash"]):
            wrong.append(f"position {position} does not hold")
        self._position, self._hash = position, right
