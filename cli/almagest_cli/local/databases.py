"""The databases and roles of the services, in our own Postgres or in one that we are given.

One role per service, which may connect to its own databases and to no other, and one that owns them all and runs
migrations. What a service may do inside its database is said by its migrations.
"""

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from almagest_cli.local.daemons import write_private
from almagest_cli.local.errors import LocalError
from almagest_cli.local.layout import OPERATOR

OWNER = "almagest_owner"
"""The role that owns every database and runs migrations."""


class Databases(Protocol):
    """A Postgres in which databases can be made."""

    def ensure(self, databases: Mapping[str, Sequence[str]]) -> None:
        """Make the databases, owned by `almagest_owner`, and the roles that may connect to each."""
        ...

    def dsn(self, database: str, role: str = OWNER) -> str:
        """The connection URL of a database for a role, in asyncpg's form."""
        ...

    def administer(self, statements: Sequence[str]) -> None:
        """Run statements as who may make, rename and drop databases, each by itself."""
        ...


class Passwords:
    """A password for each role, all derived from one secret in a file that only we can read."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __call__(self, role: str) -> str:
        """The role's password."""
        if not self._file.exists():
            write_private(self._file, secrets.token_hex(32).encode())
        return hmac.new(self._file.read_bytes(), role.encode(), hashlib.sha256).hexdigest()


class ExternalPostgres:
    """A Postgres that is not ours, reached by the URL of a role that may create roles and databases.

    The URL's parameters hold for the services too, such as `sslmode=verify-full&sslrootcert=/etc/db-ca.crt`. In them,
    `{identity}` stands for the identity directory of whoever connects, and `{role}` for the role, for certificates that
    someone else has issued: `sslcert={identity}/tls.crt&sslkey={identity}/tls.key`, or `sslcert=/etc/{role}.crt` and so
    on. See docs/external-servers.md.

    Args:
        url: where, as whom.
        passwords: of the roles that are made.
        identities: the directory of the identity directories.
    """

    def __init__(self, url: str, *, passwords: Passwords, identities: Path) -> None:
        self._url = urlsplit(url)
        self._passwords = passwords
        self._identities = identities
        if self._url.scheme not in {"postgresql", "postgres"} or not self._url.username:
            raise LocalError(
                "ALMAGEST_POSTGRES_URL must look like postgresql://USER:PASSWORD@HOST:PORT/postgres, "
                "where USER may create roles and databases."
            )

    def dsn(self, database: str, role: str = OWNER) -> str:
        """The connection URL of a database for a role."""
        address = self._url.netloc.rpartition("@")[2]
        return urlunsplit(
            (
                "postgresql",
                f"{quote(role)}:{self._passwords(role)}@{address}",
                f"/{quote(database)}",
                self._parameters(role, role.replace("_", "-")),
                "",
            )
        )

    def ensure(self, databases: Mapping[str, Sequence[str]]) -> None:
        """Make what is missing."""
        self._run(self._ensure(databases))

    def administer(self, statements: Sequence[str]) -> None:
        """Run statements as the role of the URL."""
        self._run(self._administer(statements))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            asyncio.run(work)
        except (OSError, asyncpg.PostgresError, TimeoutError, ValueError) as error:
            raise LocalError(
                f"The Postgres of ALMAGEST_POSTGRES_URL ({self._url.hostname}) cannot be used: "
                f"{error or type(error).__name__}"
            ) from error

    async def _administer(self, statements: Sequence[str]) -> None:
        async with self._connected() as connection:
            for statement in statements:
                await connection.execute(statement)

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[Any]:
        user = self._url.username or ""
        connection = await asyncpg.connect(
            urlunsplit(self._url._replace(query=self._parameters(user, OPERATOR))), timeout=15
        )
        try:
            yield connection
        finally:
            await connection.close(timeout=10)

    async def _ensure(self, databases: Mapping[str, Sequence[str]]) -> None:
        user = self._url.username or ""
        async with self._connected() as connection:
            roles = {str(row[0]) for row in await connection.fetch("SELECT rolname FROM pg_roles")}
            present = {str(row[0]) for row in await connection.fetch("SELECT datname FROM pg_database")}
            for statement in statements(
                databases, password=self._passwords, roles=roles, present=present, grant_to=user
            ):
                await connection.execute(statement)

    def _parameters(self, role: str, workload: str) -> str:
        """The URL's parameters for a role, who shows the certificate of a workload."""
        query = self._url.query
        for name, value in (("role", role), ("identity", str(self._identities / workload))):
            for placeholder in (f"{{{name}}}", f"%7B{name}%7D"):
                query = query.replace(placeholder, quote(value, safe="/"))
        return query


def statements(
    databases: Mapping[str, Sequence[str]],
    *,
    password: Callable[[str], str],
    roles: Collection[str],
    present: Collection[str],
    grant_to: str = "",
) -> Iterator[str]:
    """What makes the databases and roles that are not there yet, each statement to be run by itself.

    Args:
        databases: from each database's name to the roles that may connect to it.
        password: from a role to its password, which is set each time.
        roles: the roles that exist.
        present: the databases that exist.
        grant_to: the one who runs the statements, who must be a member of the owner to give it databases; empty for a
            superuser.
    """
    for role in sorted({OWNER, *(role for users in databases.values() for role in users)}):
        verb = "ALTER" if role in roles else "CREATE"
        yield f"{verb} ROLE {_name(role)} LOGIN PASSWORD {_text(password(role))}"
    if grant_to:
        yield f"GRANT {_name(OWNER)} TO {_name(grant_to)}"
    for database, users in databases.items():
        if database not in present:
            yield f"CREATE DATABASE {_name(database)} OWNER {_name(OWNER)}"
        yield f"REVOKE ALL ON DATABASE {_name(database)} FROM PUBLIC"
        for user in users:
            yield f"GRANT CONNECT ON DATABASE {_name(database)} TO {_name(user)}"


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
