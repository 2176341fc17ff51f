"""Somebody else's object does not exist: every RPC on behalf of a person that names one, at the service itself.

Who asks for another's object gets the very answer of one that there is not, so that nothing is to be learned by asking.
An RPC with an id that nobody has decided about fails the build.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import pytest
from almagest.auth.v1 import auth_pb2, auth_pb2_grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from harness.door import Door
from harness.running import RunningSystem

from .callers import VALID, Callers
from .rpc_rows import ROWS
from .test_rpc_matrix import METHODS

pytestmark = pytest.mark.xdist_group("system")

PASSWORD = "correct horse battery staple"
OWNED = frozenset({"user_id", "session_id", "access_key_id", "job_id"})
"""Of a person: of no concern to others, but to those who manage people or everybody's jobs."""
SHARED = frozenset({"product_id", "parked_id"})
"""The catalog's and its operators': whoever has the scope may see all of it."""
NO_OBJECTS = frozenset({"command_id", "subject_id"})
"""The name of the request itself, and a filter of what only the scope `audit:read` opens."""
FURTHER: Mapping[str, Mapping[str, Any]] = {
    "UpdateUser": {"first_name": "Eve"},
    "ChangePassword": {"present": PASSWORD, "password": "another battery staple"},
    "CreateAccessKey": {"name": "stolen", "kind": 2},
}
"""What makes a request whole, so that the object is what it is refused for."""


def ids_of(method: MethodDescriptor) -> list[str]:
    return [field.name for field in method.input_type.fields if field.name.endswith("_id")]


PERSONS = {path: METHODS[path] for path, row in sorted(ROWS.items()) if row.person}
CASES = [(path, field) for path, method in PERSONS.items() for field in ids_of(method) if field in OWNED]


def test_every_id_is_decided_about() -> None:
    """Whose it is."""
    found = {field for method in PERSONS.values() for field in ids_of(method)}
    assert found == OWNED | SHARED | NO_OBJECTS
    assert len(CASES) >= 14


class Strangers:
    """An admin with an object of each kind, and an editor who asks for them."""

    def __init__(self, callers: Callers, system: RunningSystem, objects: Mapping[str, str], email: str) -> None:
        self._callers = callers
        self._servers = {path: next(iter(ROWS[path].servers)) for path in PERSONS}
        self._auth = auth_pb2_grpc.AuthServiceStub(callers.channel("gateway", VALID, "auth"))
        self._people = {"admin": (system.admin_email, system.admin_password), "editor": (email, PASSWORD)}
        self._access: dict[str, str] = {}
        self.objects = objects

    async def ask(self, who: str, path: str, field: str, value: str) -> tuple[grpc.StatusCode, str]:
        """What the service answers to a person."""
        if who not in self._access:
            email, password = self._people[who]
            log_in = auth_pb2.LogInRequest(email=email, password=password)
            self._access[who] = (await self._auth.LogIn(log_in, timeout=20)).tokens.access_token
        exchange = auth_pb2.ExchangeTokenRequest(access_token=self._access[who])
        token = (await self._auth.ExchangeToken(exchange, timeout=20)).transaction_token
        method = METHODS[path]
        known = FURTHER.get(method.name, {}) | {field: value}
        if "command_id" in ids_of(method):
            known |= {"command_id": str(uuid.uuid4())}
        request = message_factory.GetMessageClass(method.input_type)(**known).SerializeToString()
        channel = self._callers.channel("gateway", VALID, self._servers[path])
        make = getattr(channel, "unary_stream" if method.server_streaming else "unary_unary")(path)
        running = make(request, metadata=(("txn-token", token),), timeout=20)
        try:
            if method.server_streaming:
                await running.read()
                running.cancel()
            else:
                await running
        except grpc.aio.AioRpcError as error:
            return error.code(), (error.details() or "").replace(value, "it")
        return grpc.StatusCode.OK, ""


@pytest.fixture(scope="module")
async def strangers(
    system: RunningSystem, door: Door, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Strangers]:
    email = f"{uuid.uuid4().hex}@example.org"
    editor = {"email": email, "password": PASSWORD, "first_name": "E", "last_name": "F", "roles": ["editor"]}

    def made() -> dict[str, str]:
        assert door.call("POST", "/v1/users", json=editor).status_code == 201
        sessions = door.call("GET", "/v1/sessions").json()["items"]
        return {
            "user_id": door.call("GET", "/v1/users/me").json()["user_id"],
            "session_id": next(one["session_id"] for one in sessions if one["current"]),
            "access_key_id": door.call("POST", "/v1/keys", json={"name": "own", "kind": "ed25519"}).json()["key_id"],
            "job_id": door.submit_import([{"sku": f"own-{uuid.uuid4().hex}", "kind": "general", "name": "Own"}])[
                "job_id"
            ],
        }

    objects = await asyncio.to_thread(made)
    callers = Callers(system, tmp_path_factory.mktemp("strangers"))
    yield Strangers(callers, system, objects, email)
    await callers.close()


@pytest.mark.parametrize(("path", "field"), CASES)
async def test_another_s_object_is_answered_as_one_that_there_is_not(
    path: str, field: str, strangers: Strangers
) -> None:
    """By code and words, but for the id that was asked for; and its owner is not refused, where asking does no harm."""
    anothers = await strangers.ask("editor", path, field, strangers.objects[field])
    nobodys = await strangers.ask("editor", path, field, str(uuid.uuid4()))
    assert anothers == nobodys
    assert anothers[0] in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED)
    name = METHODS[path].name
    if name.startswith(("Get", "List", "Watch")) and name != "GetErasure":
        assert (await strangers.ask("admin", path, field, strangers.objects[field]))[0] is grpc.StatusCode.OK
