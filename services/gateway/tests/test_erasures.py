"""Forgetting through the door, and how much of a person the door shows to whom."""

import copy
import json

import pytest
from almagest.auth.v1 import auth_pb2
from almagest.auth.v1 import privacy_pb2 as wire
from gateway.application.ports import Person
from gateway.encoding import encode
from gateway.representations.people import Session, User

USER = "0193a1c2-7f4e-7c3a-9d52-3f1b6f1f0c11"
ADA = auth_pb2.User(
    user_id=USER, email="ada@example.org", first_name="Ada", last_name="Lovelace", roles=[auth_pb2.ROLE_EDITOR]
)


async def test_a_person_is_forgotten_and_the_erasure_followed(client, fakes):
    """202 with where to look, then the stores and the certificate."""
    answer = await client.post(f"/v1/users/{USER}:forget?block_email=true")
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/users/{USER}/erasure"
    assert answer.json()["state"] == "searching"
    assert answer.json()["certificate"] is None
    assert fakes.erasures.blocked == {USER}
    erasure = fakes.erasures.erasures[USER]
    erasure.state = wire.Erasure.STATE_FOUND
    erasure.certificate = "a.b.c"
    erasure.stores.append(wire.SearchedStore(service="worker", store="redis", total=7, searched=7, findings=1))
    answer = await client.get(f"/v1/users/{USER}/erasure")
    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["certificate"]) == ("found", "a.b.c")
    store = {"service": "worker", "store": "redis", "total": 7, "searched": 7, "findings": 1, "mentions": 0}
    assert answer.json()["stores"] == [store]


async def test_an_erasure_that_is_not_is_not_found(client):
    """And nobody is forgotten without a session or by nonsense."""
    answer = await client.get(f"/v1/users/{USER}/erasure")
    assert (answer.status_code, answer.json()["reason"]) == (404, "ERASURE_NOT_FOUND")
    assert (await client.post("/v1/users/x:forget")).json()["reason"] == "INVALID_REQUEST"
    del client.headers["Authorization"]
    assert (await client.post(f"/v1/users/{USER}:forget")).status_code == 401


@pytest.mark.parametrize(
    ("viewer", "whole"),
    [
        (Person(USER, "", 0.0), True),
        (Person("other", "", 0.0, frozenset({"users:read"})), True),
        (Person("other", "", 0.0, frozenset({"catalog:write", "users:write"})), False),
        (Person("other", "", 0.0), False),
    ],
)
def test_a_lesser_role_sees_less_of_the_same_person(viewer: Person, whole: bool):  # noqa: FBT001 - a case
    """Themselves and those who manage people see everything, others initials and no address, in every serialisation."""
    user = User.of(ADA, whole=viewer.sees(USER))
    expected = (
        {"email": "ada@example.org", "first_name": "Ada", "last_name": "Lovelace", "full_name": "Ada Lovelace"}
        if whole
        else {"email": None, "first_name": "A.", "last_name": "L.", "full_name": "A. L."}
    )
    nested = Session.model_construct(user=user, access_token="a", refresh_token="r")
    copied = user.model_copy()
    for shown in (
        user.model_dump(),
        json.loads(user.model_dump_json()),
        json.loads(encode(user)),
        json.loads(encode({"people": [user]}))["people"][0],
        nested.model_dump()["user"],
        copied.model_dump(),
        copy.deepcopy(user).model_dump(),
    ):
        assert {key: shown[key] for key in expected} == expected
        assert not [key for key in shown if key.startswith("_")]


def test_who_forgets_to_say_who_looks_shows_less():
    """The default is that of strangers; and no way of writing a person into a log shows the person."""
    user = User.of(ADA)
    assert user.model_dump()["email"] is None
    for text in (repr(User.of(ADA, whole=True)), f"{user}", str(User.of(ADA, whole=True)), f"{[user]}"):
        assert "ada@" not in text
        assert "Lovelace" not in text
