"""`python -m storm`: the whole system under load while certificates live for seconds; see docs/operations/identity.md."""

import argparse
import asyncio
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import asyncpg
import uvloop
from almagest_cli.local.authority import LocalAuthority
from almagest_cli.local.layout import WORKLOADS
from almagest_cli.local.trust import Lifetimes
from harness.running import RunningSystem, running_system

from storm.load import Load
from storm.servers import Servers

_LINE = re.compile(r"^\S+ \S+ (?:renewed (?P<leaf>\S+)|authority: (?P<step>\S+))$", re.MULTILINE)


def say(text: str) -> None:
    """Tell whoever looks on."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """Run the storm; 0: no request failed."""
    parser = argparse.ArgumentParser(prog="python -m storm", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--leaf", type=float, default=5, help="seconds that a workload's certificate lives")
    parser.add_argument("--authority", type=float, default=30, help="seconds that the authority lives")
    parser.add_argument("--rate", type=float, default=60, help="requests a second")
    parser.add_argument("--http-server", default="granian", help="which of the gateway's servers")
    parser.add_argument("--logs", type=Path, default=None, help="where the logs of the processes are kept")
    asked = parser.parse_args(arguments)
    os.environ["ALMAGEST_HTTP_SERVER"] = asked.http_server
    lifetimes = Lifetimes(
        leaf=timedelta(seconds=asked.leaf),
        web=timedelta(seconds=2 * asked.leaf),
        authority=timedelta(seconds=asked.authority),
        propagation=timedelta(seconds=asked.authority / 20),
    )
    return uvloop.run(_storm(asked.seconds, asked.rate, lifetimes, asked.logs))


async def _storm(seconds: float, rate: float, lifetimes: Lifetimes, logs: Path | None) -> int:
    home = Path(tempfile.mkdtemp(prefix="almagest-storm-"))
    state = home / "state"
    authority = LocalAuthority(state / "authority", lifetimes=lifetimes)
    servers = Servers(home, authority)
    try:
        servers.start()
        following = asyncio.create_task(servers.follow())
        # Until the system renews by itself.
        renewing = asyncio.create_task(_renew(authority))
        try:
            await _provide_operator(servers, authority)
            _tell(servers, lifetimes)
            return await asyncio.to_thread(_with_system, state, seconds, rate, servers, logs, renewing)
        finally:
            renewing.cancel()
            following.cancel()
            await asyncio.gather(renewing, following, return_exceptions=True)
    finally:
        servers.remove()
        shutil.rmtree(home, ignore_errors=True)


async def _renew(authority: LocalAuthority) -> None:
    while True:
        authority.renew((*WORKLOADS, "postgres"))
        await asyncio.sleep(authority.lifetimes.leaf.total_seconds() / 20)


def _tell(servers: Servers, lifetimes: Lifetimes) -> None:
    """Tell the system, by its environment, where it is and how short life is."""
    certificates = servers.certificate_parameters("{identity}")
    redis = servers.redis
    os.environ |= {
        "ALMAGEST_POSTGRES_URL": f"postgresql://operator:made-up@localhost:{servers.postgres.port}/postgres?{certificates}",
        "ALMAGEST_REDIS_URL": f"rediss://{redis.user}:{redis.password}@localhost:{redis.port}/0",
        "ALMAGEST_IDENTITY_POLL_SECONDS": "0.2",
        **{f"ALMAGEST_{name.upper()}_SECONDS": str(one.total_seconds()) for name, one in lifetimes.each()},
    }


async def _provide_operator(servers: Servers, authority: LocalAuthority) -> None:
    identity = authority.ensure("postgres")
    postgres = servers.postgres
    connection = await asyncpg.connect(
        f"postgresql://postgres:{postgres.password}@localhost:{postgres.port}/postgres?"
        + servers.certificate_parameters(str(identity))
    )
    await connection.execute("CREATE ROLE operator LOGIN CREATEDB CREATEROLE PASSWORD 'made-up'")
    await connection.close()


def _with_system(
    state: Path, seconds: float, rate: float, servers: Servers, logs: Path | None, renewing: "asyncio.Task[None]"
) -> int:
    """In a thread of its own, since the local runtime blocks, while the servers' certificates are followed."""
    with running_system(state, logs=logs) as system:
        renewing.get_loop().call_soon_threadsafe(renewing.cancel)
        return uvloop.run(_under_load(system, seconds, rate, servers))


async def _under_load(system: RunningSystem, seconds: float, rate: float, servers: Servers) -> int:
    load = Load(system.url, system.ca, email=system.admin_email, password=system.admin_password, rate=rate)
    before, reloads = _rotations(system), servers.reloads
    began = time.monotonic()
    working = asyncio.create_task(load.run(seconds))
    while not working.done():
        await asyncio.wait({working}, timeout=30)
        done = _rotations(system) - before
        say(
            f"  {time.monotonic() - began:5.0f} of {seconds:.0f} s: {load.requests.total():,} requests, "
            f"{_leaves(done):,} leaves, {done['authority: rotated']:,} authorities, {len(load.failures):,} failures"
        )
    await working
    took = time.monotonic() - began
    done = _rotations(system) - before
    say(f"{load.requests.total():,} requests in {took:.0f} s, the slowest of {load.slowest:.2f} s:")
    for what, number in sorted(load.requests.items()):
        say(f"  {number:>10,}  {what}")
    say(
        f"{load.resent.total():,} requests were sent again since their connection was closed under them: {dict(load.resent)}"
    )
    say(f"{load.feed_events:,} events of one change feed, on {load.feed_connections:,} connections")
    say(f"{_leaves(done):,} leaf rotations:")
    for what, number in sorted(done.items()):
        if not what.startswith("authority"):
            say(f"  {number:>10,}  {what}")
    say(
        f"{done['authority: rotated']:,} rotations of the authority; Postgres and Redis reloaded {servers.reloads - reloads:,} times"
    )
    say(f"{len(load.failures):,} failures")
    for failure in load.failures[:50]:
        say(f"  {failure}")
    rotated = _leaves(done) > 0 and done["authority: rotated"] > 0
    if not rotated:
        say("Nothing was rotated: this was no storm.")
    return 0 if rotated and not load.failures else 1


def _rotations(system: RunningSystem) -> Counter[str]:
    """What the process that renews certificates has done so far."""
    return Counter(
        found["leaf"] or f"authority: {found['step']}" for found in _LINE.finditer(system.log("certificates"))
    )


def _leaves(done: Counter[str]) -> int:
    return sum(number for what, number in done.items() if not what.startswith("authority"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
