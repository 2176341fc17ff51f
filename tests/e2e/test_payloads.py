"""Bodies with personal data, encrypted between the client and the gateway: real keys, real Redis, the real door."""

import base64
import json
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import orjson
import pytest
from chassis.payloads import PrivateKey, PublicKey, Suite, header_of, seal, unseal
from harness.door import Door
from harness.running import Reached, RunningSystem
from redis import Redis

pytestmark = pytest.mark.xdist_group("system")
SUITES = pytest.mark.parametrize("suite", list(Suite))


class Client:
    """Encrypts to the gateway, and has its answers encrypted to itself."""

    def __init__(self, door: Door, suite: Suite) -> None:
        self.door = door
        self.suite = suite
        self.own = PrivateKey.generate(suite)
        keys = [PublicKey.of_jwk(jwk) for jwk in door.get("/v1/payload-keys")["keys"]]
        [self.theirs] = [key for key in keys if key.suite is suite]

    @property
    def headers(self) -> dict[str, str]:
        """What asks for an encrypted answer."""
        jwk = base64.urlsafe_b64encode(orjson.dumps(self.own.public.jwk())).rstrip(b"=").decode()
        return {"Almagest-Encrypt-To": jwk, "Accept": self.suite.media_type}

    def message(self, method: str, path: str, body: object, **header: Any) -> bytes:
        """An encrypted body for a request; members of its header can be given, or left out by None."""
        said = {"htm": method, "htu": path, "iat": int(time.time()), "jti": str(uuid.uuid4()), **header}
        said = {name: value for name, value in said.items() if value is not None}
        return seal(orjson.dumps(body), self.theirs, said)

    def send(self, method: str, path: str, message: bytes | None = None, **headers: str) -> httpx.Response:
        """Send a message."""
        if message is not None:
            headers["Content-Type"] = self.suite.media_type
        return self.door.call(method, path, content=message, headers={**self.headers, **headers})

    def read(self, response: httpx.Response) -> Any:
        """The JSON of an encrypted answer."""
        assert response.headers["content-type"] == self.suite.media_type, response.text
        return orjson.loads(unseal(response.content, self.own))


@pytest.fixture(scope="module", autouse=True)
def trusted(door: Door) -> None:
    """A system that has just started takes nothing encrypted for ten seconds: what came before is not known to it."""
    client, deadline = Client(door, Suite.JWE), time.monotonic() + 60
    while True:
        message = client.message("POST", "/v1/sessions:end", {"refresh_token": "none"})
        headers = {"Content-Type": client.suite.media_type}
        if door.http.post("/v1/sessions:end", content=message, headers=headers).status_code != 503:
            return
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture(params=list(Suite))
def client(request: pytest.FixtureRequest, door: Door) -> Client:
    return Client(door, request.param)


def _person() -> dict[str, Any]:
    return {
        "email": f"{uuid.uuid4()}@example.com",
        "password": "correct horse battery staple",
        "first_name": "Ada",
        "last_name": "Lovelace",
        "roles": ["viewer"],
    }


def _refused(response: httpx.Response, status: int, reason: str) -> None:
    assert (response.status_code, response.json()["reason"]) == (status, reason), response.text


def test_a_person_is_created_and_read_and_nobody_in_between_can_read_along(client: Client) -> None:
    """Both directions; the answer says which request it answers."""
    person, request = _person(), str(uuid.uuid4())
    response = client.send("POST", "/v1/users", client.message("POST", "/v1/users", person, jti=request))
    assert response.status_code == httpx.codes.CREATED, response.text
    created = client.read(response)
    assert created["email"] == person["email"]
    assert person["email"].encode() not in response.content
    header = header_of(response.content)
    assert (header["rid"], header["status"], header["htu"]) == (request, 201, "/v1/users")
    again = client.send("GET", f"/v1/users/{created['user_id']}")
    assert client.read(again)["last_name"] == "Lovelace"
    assert b"Lovelace" not in again.content


def test_a_session_is_begun_and_its_tokens_are_for_the_client_alone(client: Client, reached: Reached) -> None:
    """The password does not pass in the clear, nor do the tokens."""
    path, wanted = "/v1/sessions", {"email": reached.admin_email, "password": reached.admin_password}
    response = client.send("POST", path, client.message("POST", path, wanted))
    assert response.status_code == httpx.codes.CREATED, response.text
    assert b"access_token" not in response.content
    assert client.read(response)["access_token"].count(".") == 2


def test_a_plain_answer_to_an_encrypted_body_and_an_encrypted_one_to_a_plain_body(client: Client) -> None:
    """Each direction is asked for by itself."""
    message = client.message("POST", "/v1/users", _person())
    plain = client.door.call("POST", "/v1/users", content=message, headers={"Content-Type": client.suite.media_type})
    assert plain.status_code == httpx.codes.CREATED, plain.text
    assert plain.headers["content-type"] == "application/json"
    sealed = client.door.call("POST", "/v1/users", json=_person(), headers=client.headers)
    assert "user_id" in client.read(sealed)


def test_the_same_request_encrypted_anew_is_the_same_request(client: Client) -> None:
    """An Idempotency-Key is about what is in the message."""
    person, key = _person(), {"Idempotency-Key": str(uuid.uuid4())}
    first, second = (
        client.send("POST", "/v1/users", client.message("POST", "/v1/users", person), **key) for _ in range(2)
    )
    assert client.read(first)["user_id"] == client.read(second)["user_id"]
    assert second.headers["idempotency-replayed"] == "true"
    other = client.send("POST", "/v1/users", client.message("POST", "/v1/users", _person()), **key)
    _refused(other, 422, "IDEMPOTENCY_KEY_REUSED")


def test_of_64_copies_of_a_message_one_is_taken(client: Client, reached: Reached) -> None:
    """At once."""
    message = client.message("POST", "/v1/users", _person())
    authorization = {"Authorization": client.door.http.headers["authorization"]}
    headers = {**authorization, **client.headers, "Content-Type": client.suite.media_type}
    tls = ssl.create_default_context(cafile=str(reached.ca))
    # HTTP/1.1: a connection of its own for each that is in flight. On one of HTTP/2, the client's threads disturb each other.
    with (
        httpx.Client(base_url=reached.url, verify=tls, headers=headers, timeout=30) as many,
        ThreadPoolExecutor(16) as pool,
    ):
        answers = list(pool.map(lambda _: many.post("/v1/users", content=message), range(64)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 63
    _refused(next(answer for answer in answers if answer.status_code == httpx.codes.CONFLICT), 409, "PAYLOAD_REPLAYED")


WRONG: dict[str, tuple[Callable[[Client], bytes], str]] = {
    "made for another path": (lambda c: c.message("POST", "/v1/sessions", _person()), "PAYLOAD_INVALID"),
    "made for another method": (lambda c: c.message("PUT", "/v1/users", _person()), "PAYLOAD_INVALID"),
    "too old": (lambda c: c.message("POST", "/v1/users", _person(), iat=int(time.time()) - 400), "PAYLOAD_STALE"),
    "of the future": (lambda c: c.message("POST", "/v1/users", _person(), iat=int(time.time()) + 30), "PAYLOAD_STALE"),
    "without a time": (lambda c: c.message("POST", "/v1/users", _person(), iat=None), "PAYLOAD_INVALID"),
    "with a time that is none": (lambda c: c.message("POST", "/v1/users", _person(), iat=True), "PAYLOAD_INVALID"),
    "without an id": (lambda c: c.message("POST", "/v1/users", _person(), jti=None), "PAYLOAD_INVALID"),
    "with an endless id": (lambda c: c.message("POST", "/v1/users", _person(), jti="x" * 129), "PAYLOAD_INVALID"),
    "changed": (lambda c: c.message("POST", "/v1/users", _person())[:-4] + b"AAAA", "PAYLOAD_INVALID"),
    "cut off": (lambda c: c.message("POST", "/v1/users", _person())[:-40], "PAYLOAD_INVALID"),
    "empty": (lambda _: b"", "PAYLOAD_INVALID"),
    "no message": (lambda _: b'{"email":"ada@example.com"}', "PAYLOAD_INVALID"),
    "not even text": (lambda _: bytes(range(256)), "PAYLOAD_INVALID"),
    "for another key": (
        lambda c: seal(b"{}", PrivateKey.generate(c.suite).public, {"jti": "1", "iat": int(time.time())}),
        "PAYLOAD_KEY_UNKNOWN",
    ),
}


@pytest.mark.parametrize("which", WRONG)
def test_a_message_that_is_wrong_is_refused(client: Client, which: str) -> None:
    """Clearly, and nothing is made."""
    make, reason = WRONG[which]
    _refused(client.send("POST", "/v1/users", make(client)), 400, reason)


def test_a_message_of_the_one_suite_does_not_pass_for_the_other(door: Door) -> None:
    """Whatever Content-Type says."""
    jwe, hybrid = Client(door, Suite.JWE), Client(door, Suite.HPKE)
    message = jwe.message("POST", "/v1/users", _person())
    response = door.call("POST", "/v1/users", content=message, headers={"Content-Type": hybrid.suite.media_type})
    _refused(response, 400, "PAYLOAD_INVALID")


def test_a_body_that_is_wrong_inside_is_refused_as_ever(client: Client) -> None:
    """The limits of a body are those of what is in it."""
    unknown = client.message("POST", "/v1/users", _person() | {"colour": "red"})
    _refused(client.send("POST", "/v1/users", unknown), 422, "INVALID_BODY")
    large = client.message("POST", "/v1/users", _person() | {"first_name": "x" * 2_000_000})
    _refused(client.send("POST", "/v1/users", large), 413, "BODY_TOO_LARGE")


@pytest.mark.parametrize("key", ["", "x", "e30", "bnVsbA", "A" * 5000, "eyJrdHkiOiJSU0EifQ"])
def test_an_answer_cannot_be_encrypted_to_what_is_no_key_and_then_nothing_is_done(door: Door, key: str) -> None:
    """It is seen before there is an effect."""
    person = _person()
    response = door.call("POST", "/v1/users", json=person, headers={"Almagest-Encrypt-To": key})
    _refused(response, 400, "INVALID_REQUEST")
    assert door.call("GET", "/v1/users", params={"email": person["email"]}).status_code == httpx.codes.NOT_FOUND


def test_an_encrypted_answer_is_asked_for_with_a_key_and_a_type_that_fits(client: Client) -> None:
    """Otherwise it is refused rather than given in the clear."""
    door, me = client.door, "/v1/users/me"
    _refused(door.call("GET", me, headers={"Accept": client.suite.media_type}), 400, "INVALID_REQUEST")
    other = next(suite for suite in Suite if suite is not client.suite)
    _refused(door.call("GET", me, headers={**client.headers, "Accept": other.media_type}), 406, "NOT_ACCEPTABLE")
    _refused(door.call("GET", me, headers={**client.headers, "Accept": "application/json"}), 406, "NOT_ACCEPTABLE")
    assert client.read(door.call("GET", me, headers={**client.headers, "Accept": "*/*"}))["user_id"]


def test_only_routes_with_personal_data_take_encrypted_bodies(client: Client) -> None:
    """Elsewhere it is a type that is not known."""
    message = client.message("POST", "/v1/products", {})
    _refused(client.send("POST", "/v1/products", message), 415, "UNSUPPORTED_MEDIA_TYPE")


def test_after_redis_has_lost_its_memory_no_message_of_before_is_taken_again(system: RunningSystem, door: Door) -> None:
    """Not even once, as nobody knows whether it was; soon, new ones are."""
    client = Client(door, Suite.JWE)
    message, headers = client.message("POST", "/v1/users", _person()), {"Content-Type": client.suite.media_type}
    assert door.http.post("/v1/users", content=message, headers=headers).status_code == httpx.codes.CREATED
    with Redis.from_url(system.redis_url) as redis:
        redis.flushall()
    assert door.http.post("/v1/users", content=message, headers=headers).status_code in (503, 409)
    deadline = time.monotonic() + 60
    while True:
        again = client.message("POST", "/v1/users", _person())
        response = door.http.post("/v1/users", content=again, headers=headers)
        if response.status_code == httpx.codes.CREATED:
            break
        assert (response.status_code, response.json()["reason"]) == (503, "NONCES_UNAVAILABLE")
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert door.http.post("/v1/users", content=message, headers=headers).status_code in (503, 409)


def test_keys_are_rotated_and_what_was_encrypted_before_still_opens(door: Door, system: RunningSystem) -> None:
    """The next key is known to the gateway before clients hear of it, and the last one opens for a day."""
    before = Client(door, Suite.JWE)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "auth", "rotate-payload-keys", "--now"],
        env=system.local.environment_of("auth"),
        check=True,
        capture_output=True,
        text=True,
    )
    states = json.loads(done.stdout.splitlines()[-1])["keys"]
    assert states[before.theirs.key_id] == "retired"
    deadline = time.monotonic() + 90
    while Client(door, Suite.JWE).theirs == before.theirs:
        assert time.monotonic() < deadline, "the gateway does not hear of the new key"
        time.sleep(0.2)
    for client in (before, Client(door, Suite.JWE)):
        response = client.send("POST", "/v1/users", client.message("POST", "/v1/users", _person()))
        assert response.status_code == httpx.codes.CREATED, response.text
