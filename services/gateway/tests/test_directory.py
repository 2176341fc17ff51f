"""People in bulk and as they change, their sessions, and the audit, at the door."""

import pytest
from almagest.auth.v1 import auth_pb2
from chassis.caller import current_origin

PERSON = {
    "email": "bob@example.com",
    "password": "correct horse battery staple",
    "first_name": "Bob",
    "last_name": "Babbage",
    "roles": ["viewer"],
}


async def test_a_batch_tells_what_became_of_each(client, fakes):
    """One that is refused refuses nobody else, and what cannot even be a person is auth's to say."""
    odd = {**PERSON, "email": "no address", "roles": ["king"]}
    answer = await client.post("/v1/users:batchCreate", json={"users": [PERSON, PERSON, odd]})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["created"] == 2
    assert body["results"][0]["user"]["user_id"]
    assert body["results"][1]["problem"]["reason"] == "EMAIL_TAKEN"
    assert {user.email for user in fakes.auth.users.values()} >= {"bob@example.com", "no address"}


async def test_a_batch_with_a_key_is_made_once(client, fakes):
    """Each person has a command id that comes from the key."""
    headers = {"Idempotency-Key": "batch 1".replace(" ", "-")}
    answers = [await client.post("/v1/users:batchCreate", json={"users": [PERSON]}, headers=headers) for _ in range(2)]
    ids = {answer.json()["results"][0]["user"]["user_id"] for answer in answers}
    assert len(ids) == len(fakes.auth.created) == 1


@pytest.mark.parametrize("users", [[], [PERSON] * 1001, [{"email": "x"}], "everybody"])
async def test_what_is_no_batch_is_refused(client, users):
    """Before anybody is asked."""
    answer = await client.post("/v1/users:batchCreate", json={"users": users})
    assert answer.status_code in {413, 422}


async def test_everybody_is_listed_by_pages(client, fakes):
    """With the link of the next one."""
    for number in range(4):
        fakes.auth.add(f"person{number}@example.com", "P", str(number), auth_pb2.ROLE_VIEWER)
    found, path = [], "/v1/users?page_size=2"
    while path:
        answer = await client.get(path)
        found += [user["user_id"] for user in answer.json()["items"]]
        path = answer.links.get("next", {}).get("url")
    assert found == sorted(fakes.auth.users)


async def test_a_person_is_changed(client, fakes):
    """Only what is named goes to auth."""
    user_id = next(iter(fakes.auth.users))
    answer = await client.patch(f"/v1/users/{user_id}", json={"disabled": True, "roles": ["viewer"]})
    assert (answer.status_code, answer.json()["disabled"], answer.json()["roles"]) == (200, True, ["viewer"])
    [asked] = fakes.auth.updates
    assert not asked.HasField("first_name")
    for wrong in ({"roles": []}, {"roles": ["king"]}, {"email": "x@example.com"}, {"disabled": "yes"}):
        assert (await client.patch(f"/v1/users/{user_id}", json=wrong)).status_code == 422


async def test_passwords_and_sessions(client, fakes):
    """What auth refuses is a problem like any other."""
    user_id = next(iter(fakes.auth.users))
    path = f"/v1/users/{user_id}:changePassword"
    right = {"present": "correct horse battery staple", "password": "another battery staple"}
    assert (await client.post(path, json=right)).status_code == 204
    wrong = await client.post(path, json={**right, "present": "wrong"})
    assert (wrong.status_code, wrong.json()["reason"]) == (401, "INVALID_CREDENTIALS")
    [session] = (await client.get("/v1/sessions")).json()["items"]
    assert session["current"]
    assert (await client.get(f"/v1/sessions?user_id={user_id}")).json()["items"][0]["session_id"] == user_id
    assert (await client.delete(f"/v1/sessions/{user_id}")).status_code == 204
    missing = await client.delete("/v1/sessions/0193a1c2-7f4e-7c3a-9d52-3f1b6f1f0c11")
    assert (missing.status_code, missing.json()["reason"]) == (404, "SESSION_NOT_FOUND")


async def test_the_audit_is_asked_as_it_is_wanted(client, fakes):
    """By subject, types and times; the next page is linked."""
    subject = "0193a1c2-7f4e-7c3a-9d52-3f1b6f1f0c11"
    answer = await client.get(
        f"/v1/audit?subject={subject}&type=LoggedIn&type=LogInFailed&since=2026-01-01T00:00:00Z&page_size=7"
    )
    assert answer.status_code == 200, answer.text
    [event] = answer.json()["items"]
    assert (event["type"], event["origin"], event["details"]) == (
        "LoggedIn",
        {"address": "192.0.2.1"},
        {"session_id": "s"},
    )
    [asked] = fakes.auth.audits
    assert (asked.subject_id, list(asked.types), asked.page_size) == (subject, ["LoggedIn", "LogInFailed"], 7)
    assert asked.since.ToJsonString() == "2026-01-01T00:00:00Z"
    assert "cursor=" in answer.links["next"]["url"]
    for wrong in ("since=yesterday", "type=a-b", "page_size=501", "cursor=x", "who=me"):
        assert (await client.get(f"/v1/audit?{wrong}")).status_code == 400


async def test_auth_is_told_where_a_request_comes_from(client, fakes, monkeypatch):
    """It throttles and keeps records by it."""
    seen = []

    async def log_out(request):
        seen.append(current_origin())

    monkeypatch.setattr(fakes.auth, "log_out", log_out)
    await client.post(
        "/v1/sessions:end", json={"refresh_token": "x"}, headers={"User-Agent": "tëst\x7fer".encode("latin-1")}
    )
    [origin] = seen
    assert origin.address == "127.0.0.1"
    assert origin.agent == "tster"
