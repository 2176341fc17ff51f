"""One run: a system of its own, clients of two kinds, faults, then quiet, then what is left is gathered and checked."""

import asyncio
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
import orjson
from almagest.auth.v1 import auth_pb2, auth_pb2_grpc
from almagest.eventstore.v1 import administration_pb2, administration_pb2_grpc, event_store_pb2, event_store_pb2_grpc
from almagest_cli.local.postgres import EmbeddedPostgres
from almagest_cli.local.system import POSTGRES
from chassis.errors import RemoteProblem
from chassis.identity.files import FileIdentitySource
from chassis.rpc.channel import Channel
from harness.running import RunningSystem, running_system

from chaos import chain, history
from chaos.check import check
from chaos.clocks import DatabaseClock, NoCompiler, ProcessClocks
from chaos.direct import Cancellation, Direct, Stub
from chaos.faults import Faults
from chaos.findings import Findings
from chaos.followers import Follower, until_at
from chaos.history import Writer
from chaos.moves import Moves
from chaos.proxy import Proxy
from chaos.shop import Shop

TRUST_DOMAIN: Final = "almagest.internal"
REPLICAS: Final = {"event-store": 2, "catalog-query": 2}
SHARDS: Final = 2
_RELAYED: Final = ("event-store", "event-store-2", "gateway")
_EXCHANGE_SECONDS: Final = 15.0


@dataclass(frozen=True)
class Plan:
    """What a run is to be.

    Attributes:
        seconds: how long operations and faults go on.
        seed: of every choice of ours. What the machine makes of them differs from run to run.
        directory: where the history goes.
        rate: operations a second of the direct clients.
        people_rate: operations a second at the door.
        faults: faults a second.
        own_network: whether we are in a network namespace of our own.
        moves: whether buckets move between the shards.
    """

    seconds: float
    seed: int
    directory: Path
    rate: float
    people_rate: float
    faults: float
    own_network: bool
    moves: bool


def say(text: str) -> None:
    """Tell whoever looks on."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


Plant = Callable[[RunningSystem, Shop], Awaitable[None]]
"""What a test of the checker does to the system behind its back, when the run is over and before it is looked at."""


async def run(plan: Plan, *, plant: Plant | None = None) -> tuple["Counts", Findings]:
    """Run and check."""
    plan.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="almagest-chaos-") as state:
        clocks = _process_clocks(Path(state) / "clocks")
        told = None if clocks is None else clocks.environment
        with running_system(Path(state) / "state", shards=SHARDS, replicas=REPLICAS, told=told) as system:
            try:
                counts = await _under_fire(plan, system, clocks, plant)
            finally:
                shutil.copytree(system.local.places.logs, plan.directory / "logs", dirs_exist_ok=True)
    return counts, await asyncio.to_thread(check, plan.directory)


def _process_clocks(directory: Path) -> ProcessClocks | None:
    try:
        return ProcessClocks(directory)
    except NoCompiler:
        say("There is no C compiler (cc) here: the clocks of the services' processes are left alone.")
        return None


async def run_and_report(plan: Plan) -> bool:
    """Run, check and report; answers whether all holds."""
    network_of = "in a network namespace" if plan.own_network else "without a network namespace: by relays only"
    say(f"Chaos of {plan.seconds:g} s, seed {plan.seed}, {network_of}. History: {plan.directory}")
    counts, found = await run(plan)
    say(counts.report())
    say(f"Checks:\n{found.report()}")
    if counts.unresolved:
        say(f"{counts.unresolved} operations stayed of unknown outcome although everything runs again.")
    if not counts.quiet:
        say("A subscriber did not get to the end of the log, or a move to its own, although everything runs again.")
    if found.hold and counts.quiet and not counts.unresolved:
        say("All holds.")
        return True
    say(
        f"NOT ALL HOLDS. Seed {plan.seed}. The history is kept; to check it again: python -m chaos check {plan.directory}"
    )
    return False


@dataclass(frozen=True)
class Counts:
    """What happened."""

    operations: Mapping[str, int]
    faults: Mapping[str, int]
    cancelled: Mapping[str, int]
    reasons: Mapping[str, int]
    statuses: Mapping[int, int]
    followed: Mapping[str, tuple[int, int]]
    events: int
    documents: int
    seconds: float
    unresolved: int
    quiet: bool
    moves: Mapping[str, int]

    def report(self) -> str:
        """In words."""
        operations, faults = sum(self.operations.values()), sum(self.faults.values())
        reasons = ", ".join(f"{name} {n:,}" for name, n in sorted(self.reasons.items()))
        statuses = ", ".join(f"{status} {n:,}" for status, n in sorted(self.statuses.items()))
        cancelled = sum(self.cancelled.values())
        return "\n".join(
            [
                f"{operations:,} operations in {self.seconds:.0f} s ({operations / self.seconds:,.0f} a second):",
                *_listed(self.operations),
                f"They left {self.events:,} events and {self.documents:,} products.",
                f"Why appends were not acknowledged: {reasons or 'all were'}. HTTP: {statuses}.",
                f"{faults:,} faults ({faults / self.seconds:.2f} a second), and {cancelled:,} calls cancelled by clients:",
                *_listed(self.faults),
                "Moves of buckets:",
                *_listed(self.moves),
                "Subscribers:",
                *(f"  {n:>10,}  events, {name}, {c} connections" for name, (n, c) in self.followed.items()),
            ]
        )


def _listed(counts: Mapping[str, int]) -> list[str]:
    return [f"  {number:>10,}  {name}" for name, number in sorted(counts.items())]


async def _under_fire(
    plan: Plan, system: RunningSystem, process_clocks: ProcessClocks | None, plant: Plant | None
) -> Counts:
    chance = random.Random(plan.seed)  # noqa: S311 - to be repeated, not to be secret
    postgres = EmbeddedPostgres(system.local.places.state / POSTGRES)
    names = [f"events_{shard}" for shard in range(SHARDS)]
    database_clocks = {name: DatabaseClock(postgres.superuser_dsn(name)) for name in names}
    for clock in database_clocks.values():
        await clock.plant()
    cancelled: Counter[str] = Counter()
    cancellation = Cancellation(random.Random(chance.random()), cancelled)  # noqa: S311
    async with AsyncExitStack() as stack:
        record = stack.enter_context(Writer(plan.directory / history.HISTORY))
        proxies = {name: await stack.enter_async_context(Proxy(system.local.ports.of(name)[0])) for name in _RELAYED}
        ways = Ways(system, stack, proxies)
        shop = Shop(
            url=f"https://localhost:{proxies['gateway'].port}",
            ca=system.ca,
            email=system.admin_email,
            password=system.admin_password,
            run=f"r{plan.seed}",
            record=record,
            chance=random.Random(chance.random()),  # noqa: S311
            cancellation=cancellation,
            rate=plan.people_rate,
        )
        keeper = Keeper(shop, auth_pb2_grpc.AuthServiceStub(ways.channel("auth", "gateway")))
        await keeper.renew()
        writing, reading = ways.event_store("catalog-command"), ways.event_store("catalog-query")
        direct = Direct(
            writing,
            token=lambda: keeper.token,
            record=record,
            chance=random.Random(chance.random()),  # noqa: S311
            cancellation=cancellation,
            rate=plan.rate,
            several=True,
        )
        faults = Faults(
            system.local,
            postgres=postgres,
            proxies=proxies,
            chance=random.Random(chance.random()),  # noqa: S311
            rate=plan.faults,
            own_network=plan.own_network,
            database_clocks=database_clocks,
            process_clocks=process_clocks,
        )
        moves = Moves(
            administration_pb2_grpc.EventStoreAdministrationServiceStub(ways.channel("event-store", "operator")),
            shards=SHARDS,
            chance=random.Random(chance.random()),  # noqa: S311
        )
        followers = _followers(plan.directory, reading, chance)
        began = time.monotonic()
        async with asyncio.TaskGroup() as background:
            following = [background.create_task(follower.follow()) for follower in followers]
            renewing = background.create_task(keeper.run())
            await _work(plan, direct, shop, faults, moves)
            seconds = time.monotonic() - began
            say(f"Quiet after {seconds:.0f} s; {direct.unresolved + len(shop.unresolved)} outcomes are unknown")
            await faults.heal()
            moved = await moves.finish()
            unresolved = await direct.resolve("resolver") + await shop.resolve()
            heads = await _heads(reading[0])
            final = Follower("final", reading, plan.directory, shards=range(SHARDS), chance=chance)
            following.append(background.create_task(final.follow()))
            quiet = await until_at([*followers, final], heads, within=180)
            if plant is not None:
                await plant(system, shop)
            documents = await _documents(plan.directory, shop)
            # Who logs in is written to the log a moment later: nobody does any more, and all of it is there.
            renewing.cancel()
            quiet &= await _audited(postgres, within=60)
            quiet &= await until_at([*followers, final], await _heads(reading[0]), within=60)
            events = await _dump(plan.directory, postgres)
            await _verify(plan.directory, ways)
            for task in following:
                task.cancel()
        counts = Counts(
            operations=direct.outcomes + shop.outcomes,
            faults=faults.counts,
            cancelled=cancelled,
            reasons=direct.reasons,
            statuses=shop.statuses,
            followed={one.name: (one.events, one.connections) for one in (*followers, final)},
            events=events,
            documents=documents,
            seconds=seconds,
            unresolved=unresolved,
            quiet=quiet and moved,
            moves=moves.counts,
        )
    (plan.directory / history.RUN).write_bytes(
        orjson.dumps(
            {"seed": plan.seed, "seconds": plan.seconds, "operations": counts.operations, "faults": counts.faults},
            option=orjson.OPT_INDENT_2,
        )
    )
    return counts


async def _work(plan: Plan, direct: Direct, shop: Shop, faults: Faults, moves: Moves) -> None:
    """Everybody works, everything breaks, for the time of the run."""
    stop = asyncio.Event()
    writers, people = 12, 8
    async with asyncio.TaskGroup() as group:
        for number in range(writers):
            group.create_task(direct.write(f"writer-{number}", stop, writers))
        for number in range(people):
            group.create_task(shop.visit(f"person-{number}", stop, people))
        if plan.faults:
            group.create_task(faults.run(stop))
        if plan.moves:
            group.create_task(moves.run(stop))
        group.create_task(_told(plan, stop, direct, shop, faults))
        await asyncio.sleep(plan.seconds)
        stop.set()


async def _told(plan: Plan, stop: asyncio.Event, direct: Direct, shop: Shop, faults: Faults) -> None:
    began = time.monotonic()
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(30):
                await stop.wait()
        done = direct.outcomes.total() + shop.outcomes.total()
        say(
            f"  {time.monotonic() - began:5.0f} of {plan.seconds:.0f} s: {done:,} operations, {faults.counts.total():,} faults"
        )


def _followers(directory: Path, stubs: Sequence[Stub], chance: random.Random) -> list[Follower]:
    everything = range(SHARDS)

    def follower(name: str, **what: Any) -> Follower:
        return Follower(name, stubs, directory, chance=random.Random(chance.random()), **what)  # noqa: S311

    return [
        follower("all", shards=everything),
        follower("first-shard", shards=[0]),
        follower("products", shards=everything, categories=[history.PRODUCT]),
        follower("some-buckets", shards=everything, categories=[history.CATEGORY], buckets=(300, 700)),
    ]


class Ways:
    """Channels to services, each with the identity of one of its callers."""

    def __init__(self, system: RunningSystem, stack: AsyncExitStack, proxies: Mapping[str, Proxy]) -> None:
        self._system = system
        self._stack = stack
        self._proxies = proxies
        self._identities: dict[str, FileIdentitySource] = {}

    def channel(self, service: str, caller: str, *, target: str = "") -> Channel:
        """A channel; closed when the run ends."""
        ports = self._system.local.ports
        channel = Channel(
            target or ports.target(service),
            service=service,
            identity=self._identity(caller),
            max_message_bytes=32 * 1024 * 1024,
        )
        self._stack.push_async_callback(channel.close)
        return channel

    def event_store(self, caller: str) -> list[Stub]:
        """The event store through the relays: both replicas, then each of them."""
        addresses = [f"127.0.0.1:{self._proxies[name].port}" for name in ("event-store", "event-store-2")]
        targets = (f"ipv4:{','.join(addresses)}", *addresses)
        return [
            event_store_pb2_grpc.EventStoreServiceStub(self.channel("event-store", caller, target=target))
            for target in targets
        ]

    def _identity(self, caller: str) -> FileIdentitySource:
        source = self._identities.get(caller)
        if source is None:
            directory = self._system.local.places.authority / "identities" / caller
            source = self._identities[caller] = FileIdentitySource(directory, TRUST_DOMAIN)
            task = asyncio.get_running_loop().create_task(source.watch())
            self._stack.callback(task.cancel)
        return source


class Keeper:
    """Keeps a transaction token at hand, as the gateway does."""

    def __init__(self, shop: Shop, auth: Any) -> None:
        self.token: str = ""
        self._shop = shop
        self._auth = auth

    async def renew(self) -> None:
        """Log in, and exchange the access token."""
        async with self._shop.client() as http:
            await self._shop.log_in(http)
        await self._exchange()

    async def run(self) -> None:
        """Exchange it again and again, and log in now and then."""
        at = 0
        while True:
            await asyncio.sleep(_EXCHANGE_SECONDS)
            at += 1
            with contextlib.suppress(RemoteProblem):
                await self._exchange()
            if at % 10 == 0:
                async with self._shop.client() as http:
                    await self._shop.log_in(http)

    async def _exchange(self) -> None:
        request = auth_pb2.ExchangeTokenRequest(access_token=self._shop.access_token)
        answer: Any = await self._auth.ExchangeToken(request)
        self.token = answer.transaction_token


async def _heads(stub: Stub) -> dict[int, int]:
    answer: Any = await stub.GetShardMap(event_store_pb2.GetShardMapRequest(), timeout=30)
    return {shard.shard: shard.head for shard in answer.shards}


async def _audited(postgres: EmbeddedPostgres, *, within: float) -> bool:
    """Wait until what auth has to say of people is in the log; False: it is not, in that many seconds."""
    pending = """
        SELECT EXISTS (SELECT FROM audit_events WHERE (transaction_id, id) >
            ALL (SELECT transaction_id, event_id FROM audit_relays))
    """
    until = time.monotonic() + within
    for shard in range(SHARDS):
        connection = await asyncpg.connect(postgres.superuser_dsn(f"users_{shard}"), timeout=30)
        try:
            while left := await connection.fetchval(pending):
                if time.monotonic() > until:
                    break
                await asyncio.sleep(0.05)
        finally:
            await connection.close()
        if left:
            return False
    return True


async def _documents(directory: Path, shop: Shop) -> int:
    with Writer(directory / history.MODEL) as model:
        for document in await shop.documents():
            model.write(document)
        return model.lines


async def _dump(directory: Path, postgres: EmbeddedPostgres) -> int:
    """The final log as it is stored."""
    events = 0
    for shard in range(SHARDS):
        connection = await asyncpg.connect(postgres.superuser_dsn(f"events_{shard}"), timeout=30)
        try:
            with Writer(history.log_file(directory, shard)) as log:
                async with connection.transaction(readonly=True):
                    columns = ", ".join(chain.COLUMNS)
                    async for row in connection.cursor(
                        f"SELECT {columns} FROM events ORDER BY position",  # noqa: S608 - our own names
                        prefetch=2000,
                    ):
                        log.write(chain.line(row))
                events += log.lines
        finally:
            await connection.close()
    return events


async def _verify(directory: Path, ways: Ways) -> None:
    """What the system says of its own chain."""
    stub = administration_pb2_grpc.EventStoreAdministrationServiceStub(ways.channel("event-store", "operator"))
    with Writer(directory / history.VERIFIED) as verified:
        for shard in range(SHARDS):
            position, fault = 0, None
            call: Any = stub.Verify(administration_pb2.VerifyRequest(shard=shard))
            async for message in call:
                position = message.position
                if message.HasField("fault"):
                    fault = str(message.fault)
            verified.write({"shard": shard, "position": position, "fault": fault})
