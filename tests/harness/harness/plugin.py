"""What every test may start: real Postgres, real Redis-protocol server, a certificate authority, signed tokens, the whole system.

Each xdist worker has its own of everything, below its own temporary directory, so tests run side by side without knowing of each other.
"""

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from _pytest.nodeid import NodeId
from almagest_cli.local.authority import LocalAuthority
from almagest_cli.local.databases import OWNER
from almagest_cli.local.postgres import EmbeddedPostgres
from almagest_cli.local.valkey import EmbeddedValkey

from harness.door import Door
from harness.running import Reached, RunningSystem, running_system
from harness.tokens import TransactionTokens


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Make `--dist loadgroup` group again.

    pytest-xdist tells its scheduler of a test's group by writing it behind the test's id, into an attribute that pytest
    no longer reads since 9.2: without a word, every process gets tests of every group, and starts a whole system for
    them (pytest-dev/pytest-xdist#1386). Once xdist is right again there is nothing left to do here.
    """
    if not getattr(config.option, "loadgroup", False):
        return
    for item in items:
        groups = sorted({str(mark.args[0]) for mark in item.iter_markers("xdist_group")})
        suffix = f"@{'_'.join(groups)}"
        if groups and not item.nodeid.endswith(suffix):
            item._id = NodeId.parse(item.nodeid + suffix)


class Postgres(EmbeddedPostgres):
    """A cluster for tests: fresh databases on demand."""

    def __init__(self, directory: Path) -> None:
        # It forgets what was not synced only if the machine dies, so it need not sync.
        super().__init__(directory, fsync=False)
        self._dropping = ThreadPoolExecutor(1, thread_name_prefix="dropping")

    def create_database(self, *roles: str, name: str | None = None) -> str:
        """Make a fresh, empty database owned by `almagest_owner`, which the roles may connect to, and answer the owner's DSN of it."""
        database = name or f"test_{uuid.uuid4().hex}"
        self.ensure({database: roles})
        return self.dsn(database, OWNER)

    def copy_database(self, template: str, *roles: str) -> str:
        """Make a copy of a database that nobody is connected to, and answer the owner's DSN of it: a tenth of what it
        takes to migrate a fresh one.

        Args:
            template: a name, or any DSN of it.
            roles: who may connect to the copy. They exist already.
        """
        database = f"test_{uuid.uuid4().hex}"
        grants = "".join(f'GRANT CONNECT ON DATABASE "{database}" TO "{role}";' for role in roles)
        self.execute(
            f'CREATE DATABASE "{database}" TEMPLATE "{_name(template)}" OWNER "{OWNER}";\n'
            f'REVOKE ALL ON DATABASE "{database}" FROM PUBLIC;{grants}'
        )
        return self.dsn(database, OWNER)

    def service_dsn(self, database: str, role: str) -> str:
        """The DSN of a database for a service's role, which is made and let in if it was not.

        Args:
            database: a name, or any DSN of it, such as `create_database` answers.
            role: the service's role.
        """
        name = _name(database)
        self.ensure({name: (role,)})
        return self.dsn(name, role)

    def drop_database(self, database: str) -> Future[str]:
        """Drop a database (a name, or any DSN of it), ending whatever uses it, beside what comes next.

        The server waits until all its connections have noticed. One that has much to say to a service in this process
        notices nothing until that has read it, and nobody reads while we wait for the server.
        """
        return self._dropping.submit(self.execute, f'DROP DATABASE IF EXISTS "{_name(database)}" WITH (FORCE);')

    def remove(self) -> None:
        """Stop the server and forget everything, also what was still to be dropped."""
        self.stop()
        self._dropping.shutdown(cancel_futures=True)
        super().remove()


def _name(database: str) -> str:
    return database.partition("?")[0].rpartition("/")[2]


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """One Postgres per xdist worker, which does not sync; whole systems do, and tests/power is about the difference."""
    server = Postgres(tmp_path_factory.mktemp("postgres"))
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """One Valkey per xdist worker; `.url` is the connection URL, in the form of redis-py. Sixteen databases: give `?db=`."""
    server = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> LocalAuthority:
    """A certificate authority of this test run."""
    return LocalAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def identity(authority: LocalAuthority) -> Callable[[str], Path]:
    """From a service's name to its identity directory: `identity("event-store")`."""
    return authority.ensure


@pytest.fixture(scope="session")
def transaction_tokens() -> TransactionTokens:
    """Signs transaction tokens with a key of this run; `.jwks` are the bytes that verify them."""
    return TransactionTokens()


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    """The whole system, one per xdist worker: gateway URL, CA, admin, and ways to kill and start its processes.

    For a test that must have one of its own: `with harness.running.running_system(tmp_path) as system`.
    """
    with running_system(tmp_path_factory.mktemp("system") / "state") as running:
        yield running


@pytest.fixture(scope="session")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningSystem, Door]]:
    """A second whole system, for tests that kill its processes and move its buckets: all in the group `mortal`, each
    with products of its own, which are not the only ones there.
    """
    with running_system(tmp_path_factory.mktemp("mortal") / "state") as system, Door.to(system) as door:
        yield system, door


@pytest.fixture(scope="session")
def reached(system: RunningSystem) -> Reached:
    """The whole system as its clients know it, for tests that hold no process of it in their hands.

    The end-to-end tests can be pointed at another system (see `harness.outside`); those that ask for this run there too.
    """
    return system


@pytest.fixture(scope="module")
def door(reached: Reached) -> Iterator[Door]:
    """The first admin at the gateway of the whole system, logged in."""
    with Door.to(reached) as door:
        yield door
