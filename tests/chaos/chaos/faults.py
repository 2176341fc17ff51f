"""What goes wrong during a run, drawn by chance from a seed, each put right again, and counted by kind."""

import asyncio
import contextlib
import random
import signal
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import psutil
from almagest_cli.local.errors import LocalError
from almagest_cli.local.postgres import EmbeddedPostgres
from almagest_cli.local.system import POSTGRES, VALKEY, System
from redis.asyncio import Redis
from redis.exceptions import RedisError

from chaos import network
from chaos.clocks import DatabaseClock, ProcessClocks
from chaos.proxy import Proxy

Fault = Callable[[], Awaitable[None]]

_AT_ONCE: Final = 5
_START_SECONDS: Final = 60.0


class Faults:
    """Does harm to a system until it is told to stop, and leaves it whole.

    Args:
        system: whose processes.
        postgres: its databases.
        proxies: the relays between the clients and the services, by service.
        chance: which harm, when, to whom.
        rate: faults a second.
        own_network: whether packets can be lost by the kernel (see `network`).
        database_clocks: the databases whose clock can be moved.
        process_clocks: the clocks of the services' processes; None: they cannot be moved here.
    """

    def __init__(
        self,
        system: System,
        *,
        postgres: EmbeddedPostgres,
        proxies: Mapping[str, Proxy],
        chance: random.Random,
        rate: float,
        own_network: bool,
        database_clocks: Mapping[str, DatabaseClock],
        process_clocks: ProcessClocks | None,
        calm: Callable[[], bool] = lambda: False,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._system = system
        self._postgres = postgres
        self._proxies = proxies
        self._chance = chance
        self._rate = rate
        self._database_clocks = database_clocks
        self._calm = calm
        self._numbers = set(range(64))
        self._busy: dict[str, asyncio.Lock] = {}
        self._services = [name for name in system.daemons() if name not in {POSTGRES, VALKEY, "certificates"}]
        partition = self._lost_packets if own_network else self._blackhole
        self._kinds: list[tuple[int, Fault]] = [
            (16, self._kill_service),
            (18, self._pause_service),
            (1, self._kill_postgres),
            (2, self._pause_postgres),
            (16, self._end_sessions),
            (12, self._reset),
            (14, partition),
            (4, self._blackhole),
            (6, self._delay),
            (4, self._flush),
            (2, self._kill_valkey),
            (4, self._move_database_clock),
        ]
        if process_clocks is not None:
            self._kinds.append((6, lambda: self._move_process_clock(process_clocks)))

    async def run(self, stop: asyncio.Event) -> None:
        """Do harm until told to stop; ends when all of it is put right."""
        room = asyncio.Semaphore(_AT_ONCE)
        weights = [weight for weight, _ in self._kinds]
        faults = [fault for _, fault in self._kinds]
        async with asyncio.TaskGroup() as group:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._chance.expovariate(self._rate)):
                        await stop.wait()
                        break
                await room.acquire()
                group.create_task(self._one(self._chance.choices(faults, weights)[0], room))

    async def _one(self, fault: Fault, room: asyncio.Semaphore) -> None:
        try:
            await fault()
        finally:
            room.release()

    async def heal(self) -> None:
        """See that every process runs and every way is open."""
        for proxy in self._proxies.values():
            proxy.heal()
        for name in (POSTGRES, VALKEY, *self._services):
            async with self._alone(name):
                self._signal(name, signal.SIGCONT)
                await self._start(name)

    @asynccontextmanager
    async def _alone(self, name: str) -> AsyncGenerator[None]:
        """A process suffers one fault of its own at a time."""
        async with self._busy.setdefault(name, asyncio.Lock()):
            yield

    async def _kill_service(self) -> None:
        await self._kill(self._chance.choice(self._services), after=self._chance.uniform(0, 2))

    async def _kill_postgres(self) -> None:
        await self._kill(POSTGRES, after=self._chance.uniform(0, 1.5))

    async def _kill_valkey(self) -> None:
        await self._kill(VALKEY, after=self._chance.uniform(0, 3))

    async def _kill(self, name: str, *, after: float) -> None:
        async with self._alone(name):
            await asyncio.to_thread(self._system.kill, name)
            self.counts[f"kill -9 {name}"] += 1
            await asyncio.sleep(after)
            await self._start(name)

    async def _start(self, name: str) -> None:
        """Start a process again, as often as it takes while what it needs is away too."""
        for _ in range(20):
            if self._system.daemons()[name].process() is not None:
                return
            try:
                await asyncio.to_thread(self._system.start, name, timeout=_START_SECONDS)
            except LocalError:
                await asyncio.sleep(0.5)
        raise RuntimeError(f"{name} does not start again: see {self._system.places.log(name)}")

    async def _pause_service(self) -> None:
        await self._pause(self._chance.choice(self._services), self._chance.uniform(0.1, 5))

    async def _pause_postgres(self) -> None:
        await self._pause(POSTGRES, self._chance.uniform(0.1, 2))

    async def _pause(self, name: str, seconds: float) -> None:
        async with self._alone(name):
            self._signal(name, signal.SIGSTOP)
            self.counts[f"SIGSTOP {name}"] += 1
            try:
                await asyncio.sleep(seconds)
            finally:
                self._signal(name, signal.SIGCONT)

    def _signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process and its children."""
        process = self._system.daemons()[name].process()
        if process is not None:
            with contextlib.suppress(psutil.Error):
                for member in (process, *process.children(recursive=True)):
                    member.send_signal(number)

    async def _end_sessions(self) -> None:
        """Some of the services' sessions are ended by the database, whatever they are doing."""
        try:
            connection = await asyncpg.connect(self._postgres.superuser_dsn(), timeout=3)
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return
        try:
            ended = await connection.fetch(
                """SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity
                   WHERE usename IN ('event_store', 'catalog_query', 'auth', 'worker') ORDER BY random() LIMIT $1) AS some""",
                self._chance.randint(1, 6),
                timeout=5,
            )
            if ended:
                self.counts["database session ended"] += 1
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            pass
        finally:
            connection.terminate()

    async def _reset(self) -> None:
        if self._proxies[self._chance.choice(list(self._proxies))].reset():
            self.counts["connections reset"] += 1
        await asyncio.sleep(0)

    async def _blackhole(self) -> None:
        """What goes to a service, or what comes from it, is held back, as if lost and sent again later."""
        proxy = self._proxies[self._chance.choice(list(self._proxies))]
        direction = proxy.open[self._chance.randrange(2)]
        direction.clear()
        self.counts["held back one way (relay)"] += 1
        await asyncio.sleep(self._chance.uniform(0.2, 6))
        direction.set()

    async def _delay(self) -> None:
        proxy = self._proxies[self._chance.choice(list(self._proxies))]
        proxy.delays[self._chance.randrange(2)] = self._chance.uniform(0.01, 0.4)
        self.counts["delayed (relay)"] += 1
        await asyncio.sleep(self._chance.uniform(0.5, 5))
        proxy.delays[:] = (0.0, 0.0)

    async def _lost_packets(self) -> None:
        """Everybody's packets to a service, or from it, are lost on the way."""
        name = self._chance.choice(self._services)
        port = self._chance.choice(self._system.ports.of(name)[:1])
        coming = self._chance.random() < 0.5
        number = self._numbers.pop()
        network.drop(port, coming=coming, number=number)
        self.counts[f"packets {'from' if coming else 'to'} a service lost (network namespace)"] += 1
        try:
            await asyncio.sleep(self._chance.uniform(0.2, 6))
        finally:
            network.heal(number)
            self._numbers.add(number)

    async def _flush(self) -> None:
        try:
            async with Redis.from_url(self._system.redis_url) as redis:
                await redis.flushall()
        except (OSError, RedisError):
            return
        self.counts["Redis flushed"] += 1

    async def _move_database_clock(self) -> None:
        name = self._chance.choice(list(self._database_clocks))
        if await self._database_clocks[name].move(self._chance.uniform(-600, 30)):
            self.counts["clock of a log's database moved"] += 1

    async def _move_process_clock(self, clocks: ProcessClocks) -> None:
        """The clock of a service is wrong for a while: mostly by seconds, sometimes by so much that what expires
        has expired, or does not hold yet.
        """
        name = self._chance.choice(self._services)
        width = self._chance.choice((3.0, 3.0, 90.0))
        async with self._busy.setdefault(f"clock of {name}", asyncio.Lock()):
            clocks.move(name, self._chance.uniform(-width, width))
            self.counts[f"clock of {name} moved"] += 1
            try:
                await asyncio.sleep(self._chance.uniform(0.5, 6))
            finally:
                clocks.move(name, 0)
