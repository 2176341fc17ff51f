"""Signed requests at the door, signed by an independent implementation of RFC 9421."""

import asyncio
import base64
import datetime as dt
import secrets
import time
import uuid
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import orjson
import pytest
from almagest.auth.v1 import access_keys_pb2 as wire
from chassis.dpop import Prover
from chassis.payloads import PrivateKey, Suite, seal, unseal
from chassis.revocations import Revocation, Revoked
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from fastapi.routing import APIRoute
from gateway.app import _ROUTES  # the table of routes is what this is about
from gateway.entrypoints.dependencies import person
from gateway.entrypoints.signed import SignedRoute
from http_message_signatures import HTTPMessageSigner, HTTPSignatureKeyResolver, algorithms

from .fake_access_keys import digest_of

CREDENTIALS = {"email": "ada@example.com", "password": "correct horse battery staple"}
NEW_PERSON = {**CREDENTIALS, "email": "bob@example.com", "first_name": "Bob", "last_name": "B", "roles": ["viewer"]}
REQUIRED = ("@method", "@target-uri")


class Resolver(HTTPSignatureKeyResolver):
    def __init__(self, material: bytes) -> None:
        self._material = material

    def resolve_private_key(self, key_id: str) -> bytes:
        return self._material


class Signing:
    """A client with a key."""

    def __init__(self, client: httpx.AsyncClient, fakes: Any, kind: str) -> None:
        self.client = client
        secret = secrets.token_bytes(32)
        if kind == "ed25519":
            private = Ed25519PrivateKey.from_private_bytes(secret)
            self.key_id = fakes.access_keys.add(wire.ACCESS_KEY_KIND_ED25519, private.public_key().public_bytes_raw())
            algorithm: Any = algorithms.ED25519
            material = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        else:
            self.key_id = fakes.access_keys.add(wire.ACCESS_KEY_KIND_HMAC_SHA256, secret)
            algorithm, material = algorithms.HMAC_SHA256, secret
        self.signer = HTTPMessageSigner(signature_algorithm=algorithm, key_resolver=Resolver(material))

    def request(
        self,
        method: str,
        path: str,
        *,
        components: tuple[str, ...] = REQUIRED,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        lasts: float = 60,
        ago: float = 0,
        tag: str | None = "almagest",
        nonce: str | None = "",
        key_id: str | None = None,
    ) -> httpx.Request:
        """A signed request: what there is of bound headers is covered, as `components` says."""
        headers = dict(headers or {})
        if body:
            headers = {"Content-Type": "application/json", "Content-Digest": digest_of(body), **headers}
        bound = ("content-type", "content-digest", "idempotency-key", "if-match")
        lower = {name.lower() for name in headers}
        now = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=ago)
        message = SimpleNamespace(method=method, url=f"https://gateway{path}", headers=headers)
        self.signer.sign(
            message,
            key_id=key_id or self.key_id,
            label="sig1",
            created=now,
            expires=now + dt.timedelta(seconds=lasts),
            nonce=uuid.uuid4().hex if nonce == "" else nonce,
            tag=tag,
            use_existing_digest="content-digest" in lower,
            covered_component_ids=(*components, *(name for name in bound if name in lower)),
        )
        return httpx.Request(method, message.url, headers=headers, content=body or None)

    async def send(self, method: str, path: str, **more: Any) -> httpx.Response:
        return await self.client.send(self.request(method, path, **more))


@pytest.fixture
async def anybody(fakes) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a session."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(fakes.app), base_url="https://gateway") as client:
        yield client


@pytest.fixture(params=["hmac-sha256", "ed25519"])
def signing(anybody, fakes, request) -> Signing:
    return Signing(anybody, fakes, request.param)


@pytest.fixture
def by_hmac(anybody, fakes) -> Signing:
    return Signing(anybody, fakes, "hmac-sha256")


def reason_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["reason"]


INVALID = (401, "SIGNATURE_INVALID")


async def test_a_signed_request_is_its_persons(signing, fakes, car):
    """A write, a read past the routes, one through them, HEAD; the key and the person are asked for once."""
    body = httpx.Request("POST", "https://x", json=car).content
    created = await signing.send("POST", "/v1/products", body=body, headers={"Idempotency-Key": "one"})
    assert created.status_code == 201, created.text
    location = created.headers["location"]
    for path in (location, f"{location}?as_of=2026-11-22T00:00:00Z", "/v1/products?kind=car&sort=name"):
        answer = await signing.send("GET", path)
        assert answer.status_code == 200, answer.text
    split = await signing.send("GET", f"{location}/history", components=("@method", "@authority", "@path", "@query"))
    assert split.status_code == 200, split.text
    assert (await signing.send("HEAD", location)).status_code == 200
    assert fakes.access_keys.fetched == [signing.key_id]
    assert len(fakes.access_keys.exchanged) == 1
    assert fakes.catalog.items[0].transaction_token.count(".") == 2


async def test_a_signature_is_good_once(by_hmac, fakes):
    """However many come at once with it."""
    request = by_hmac.request("GET", "/v1/users/me")
    answers = await asyncio.gather(
        *(by_hmac.client.request("GET", "/v1/products", headers=dict(request.headers)) for _ in range(2))
    )
    assert {reason_of(answer) for answer in answers} == {INVALID}
    request = by_hmac.request("GET", "/v1/products")
    answers = await asyncio.gather(*(by_hmac.client.send(request) for _ in range(64)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 63
    assert {answer.json()["reason"] for answer in answers if answer.status_code == 401} == {"SIGNATURE_REPLAYED"}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"method": "PUT"}, id="method"),
        pytest.param({"url": "https://gateway/v1/products/other/price"}, id="path"),
        pytest.param({"url": "https://gateway/v1/products?x=1"}, id="query"),
        pytest.param({"url": "https://elsewhere/v1/products"}, id="host"),
        pytest.param({"headers": {"content-type": "application/merge-patch+json"}}, id="content type"),
        pytest.param({"headers": {"idempotency-key": "two"}}, id="idempotency key"),
        pytest.param({"headers": {"idempotency-key": None}}, id="no idempotency key"),
        pytest.param({"headers": {"if-match": '"3"'}}, id="a precondition more"),
        pytest.param({"headers": {"content-encoding": "identity"}}, id="an encoding more"),
        pytest.param({"headers": {"content-digest": digest_of(b"other")}}, id="digest"),
        pytest.param({"headers": {"content-digest": None}}, id="no digest"),
        pytest.param({"headers": {"signature": None}}, id="no signature"),
        pytest.param({"headers": {"signature-input": None}}, id="no input"),
        pytest.param({"headers": {"authorization": "Bearer x.y.z"}}, id="a token as well"),
        pytest.param({"twice": "idempotency-key"}, id="idempotency key twice"),
        pytest.param({"twice": "signature"}, id="signature twice"),
        pytest.param({"twice": "signature-input"}, id="input twice"),
        pytest.param({"twice": "content-digest"}, id="digest twice"),
    ],
)
async def test_what_was_changed_on_the_way_is_refused(signing, fakes, car, change):
    """Before anything is parsed, and nothing is asked of the services."""
    body = httpx.Request("POST", "https://x", json=car).content
    good = signing.request("POST", "/v1/products", body=body, headers={"Idempotency-Key": "one"})
    headers = [(name, value) for name, value in good.headers.multi_items()]
    for name, value in change.get("headers", {}).items():
        headers = [pair for pair in headers if pair[0] != name] + ([(name, value)] if value is not None else [])
    if "twice" in change:
        headers.append((change["twice"], good.headers[change["twice"]]))
    changed = httpx.Request(
        change.get("method", "POST"), change.get("url", str(good.url)), headers=headers, content=body
    )
    if "url" in change:
        changed.headers["host"] = httpx.URL(change["url"]).host
    answer = await signing.client.send(changed)
    assert answer.status_code in (401, 405), answer.text
    assert answer.status_code == 405 or answer.json()["reason"] == "SIGNATURE_INVALID"
    assert fakes.catalog.items == []


async def test_another_body_is_refused(signing, fakes, car):
    """Also none, also one without a digest, and also where nobody reads it; the services hear of nothing."""
    body = httpx.Request("POST", "https://x", json=car).content
    for content in (b"", body[:-1], body + b" ", body.replace(b"Volvo", b"Lovvo")):
        good = signing.request("POST", "/v1/products", body=body)
        headers = {name: value for name, value in good.headers.items() if name != "content-length"}
        answer = await signing.client.post("/v1/products", headers=headers, content=content)
        assert reason_of(answer) == (400, "DIGEST_MISMATCH"), answer.text
    for path in ("/v1/products", f"/v1/jobs/{uuid.uuid4()}:cancel"):
        bare = signing.request("POST", path)
        answer = await signing.client.post(path, headers=dict(bare.headers) | {"content-length": "4"}, content=b"text")
        assert reason_of(answer) == INVALID, answer.text
    assert fakes.catalog.items == []


async def test_a_file_is_compared_while_it_comes_and_never_ends_if_it_is_another(by_hmac, fakes):
    """The worker is given no end of it, so that it keeps nothing; the right one goes through."""
    row = b'{"sku":"a","kind":"general","name":"A"}\n'
    file = row * 40_000

    async def pieces(content: bytes) -> AsyncIterator[bytes]:
        for begin in range(0, len(content), 65_536):
            yield content[begin : begin + 65_536]

    for sent, accepted in ((file, True), (file[:-1] + b" ", False), (file[:-41], False)):
        good = by_hmac.request("POST", "/v1/imports", body=file, headers={"Content-Type": "application/x-ndjson"})
        headers = {name: value for name, value in good.headers.items() if name != "content-length"}
        known = len(fakes.worker.jobs)
        answer = await by_hmac.client.post("/v1/imports", headers=headers, content=pieces(sent))
        if accepted:
            assert answer.status_code == 202, answer.text
        else:
            assert reason_of(answer) == (400, "DIGEST_MISMATCH")
        assert len(fakes.worker.jobs) == known + accepted


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"ago": 61}, "SIGNATURE_EXPIRED"),
        ({"ago": -20}, "SIGNATURE_EXPIRED"),
        ({"lasts": 301}, "SIGNATURE_INVALID"),
        ({"tag": "other"}, "SIGNATURE_INVALID"),
        ({"tag": None}, "SIGNATURE_INVALID"),
        ({"nonce": None}, "SIGNATURE_INVALID"),
        ({"nonce": "short"}, "SIGNATURE_INVALID"),
        ({"components": ("@method",)}, "SIGNATURE_INVALID"),
        ({"components": ("@target-uri",)}, "SIGNATURE_INVALID"),
        ({"components": ("@method", "@path", "@query")}, "SIGNATURE_INVALID"),
        ({"key_id": "nobody"}, "SIGNATURE_INVALID"),
        ({"key_id": str(uuid.uuid4())}, "ACCESS_KEY_NOT_VALID"),
        ({"key_id": str(uuid.uuid4()).upper()}, "SIGNATURE_INVALID"),
    ],
)
async def test_a_signature_that_does_not_say_enough_is_refused(by_hmac, how, reason):
    """Or says what is not so; and one that is refused for its time tells the clock."""
    answer = await by_hmac.send("GET", "/v1/products", **how)
    assert reason_of(answer) == (401, reason), answer.text
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_who_asks_is_said_in_one_way(by_hmac, fakes, method):
    """A good signature beside a token, or beside a good proof for a bound token or for a log-in, is refused; the
    session is not begun, and the proof is not spent.
    """
    path = "/v1/sessions" if method == "POST" else "/v1/users/me"
    prover, token = Prover.generate(), fakes.access_token()
    body = orjson.dumps(CREDENTIALS) if method == "POST" else b""
    proof = prover.proof(method=method, url=f"https://gateway{path}", access_token=None if body else token)
    others = [{"DPoP": proof}] if body else [{"DPoP": proof}, {"Authorization": f"Bearer {token}"}]
    if not body:
        fakes.auth.bound[token] = prover.thumbprint
        others.append({"DPoP": proof, "Authorization": f"DPoP {token}"})
    begun = len(fakes.auth.sessions)
    for other in others:
        request = by_hmac.request(method, path, body=body)
        request.headers.update(other)
        assert reason_of(await by_hmac.client.send(request)) == INVALID
    assert len(fakes.auth.sessions) == begun
    alone = {name: value for other in others for name, value in other.items() if "Bearer" not in value}
    answer = await by_hmac.client.request(
        method, path, content=body or None, headers=alone | ({"Content-Type": "application/json"} if body else {})
    )
    assert answer.status_code == (201 if body else 200), answer.text


@pytest.mark.parametrize("suite", list(Suite))
async def test_what_is_signed_may_be_encrypted(signing, fakes, suite):
    """The signature is over the ciphertext, as it came; it is verified before anything is opened, and the answer is
    for the client alone.
    """
    key = next(key.public for key in fakes.payload_keys.keys if key.suite is suite)
    own = PrivateKey.generate(suite)
    jwk = base64.urlsafe_b64encode(orjson.dumps(own.public.jwk())).rstrip(b"=").decode()

    def message() -> bytes:
        said = {"htm": "POST", "htu": "/v1/users", "iat": int(time.time()), "jti": str(uuid.uuid4())}
        return seal(orjson.dumps(NEW_PERSON), key, said)

    headers = {"Content-Type": suite.media_type, "Accept": suite.media_type, "Almagest-Encrypt-To": jwk}
    covered = (*REQUIRED, "almagest-encrypt-to")
    body = message()
    request = signing.request(
        "POST", "/v1/users", body=body, headers=headers | {"Content-Digest": digest_of(body)}, components=covered
    )
    swapped = httpx.Request(request.method, request.url, headers=request.headers, content=message())
    asked = fakes.payload_keys.asked
    assert (await signing.client.send(swapped)).json()["reason"] == "DIGEST_MISMATCH"
    assert fakes.payload_keys.asked == asked
    assert len(fakes.auth.users) == 1
    request = signing.request(
        "POST", "/v1/users", body=body, headers=headers | {"Content-Digest": digest_of(body)}, components=covered
    )
    answer = await signing.client.send(request)
    assert answer.status_code == 201, answer.text
    assert orjson.loads(unseal(answer.content, own))["roles"] == ["viewer"]
    # Another signature does not make the same message another one.
    again = signing.request(
        "POST", "/v1/users", body=body, headers=headers | {"Content-Digest": digest_of(body)}, components=covered
    )
    assert (await signing.client.send(again)).json()["reason"] == "PAYLOAD_REPLAYED"
    # Nor may who forwards it have the answer encrypted to themselves.
    stolen = signing.request("GET", "/v1/users/me", headers={"Almagest-Encrypt-To": jwk, "Accept": suite.media_type})
    assert reason_of(await signing.client.send(stolen)) == INVALID


async def test_a_public_key_is_no_secret(anybody, fakes):
    """An HMAC under the public key of an Ed25519 key does not pass, with or without saying so."""
    public = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    confused = Signing(anybody, fakes, "hmac-sha256")
    confused.key_id = fakes.access_keys.add(wire.ACCESS_KEY_KIND_ED25519, public)
    confused.signer = HTTPMessageSigner(signature_algorithm=algorithms.HMAC_SHA256, key_resolver=Resolver(public))
    request = confused.request("GET", "/v1/products")
    assert 'alg="hmac-sha256"' in request.headers["signature-input"]
    assert reason_of(await anybody.send(request)) == INVALID


async def test_without_a_memory_nothing_is_taken_that_could_come_twice(by_hmac, fakes, settings):
    """Unless the settings let reads pass."""
    fakes.nonces.away = True
    for method, path in (("POST", f"/v1/jobs/{uuid.uuid4()}:cancel"), ("GET", "/v1/products")):
        answer = await by_hmac.send(method, path)
        assert reason_of(answer) == (503, "NONCES_UNAVAILABLE")
        assert answer.headers["retry-after"]
    lenient = type(fakes)(settings.model_copy(update={"signed_reads_without_redis": True}))
    lenient.nonces.away = True
    async with httpx.AsyncClient(transport=httpx.ASGITransport(lenient.app), base_url="https://gateway") as client:
        trusting = Signing(client, lenient, "hmac-sha256")
        assert (await trusting.send("GET", "/v1/products")).status_code == 200
        answer = await trusting.send("POST", f"/v1/jobs/{uuid.uuid4()}:cancel")
        assert reason_of(answer) == (503, "NONCES_UNAVAILABLE")


async def test_a_revoked_key_is_forgotten_at_once(by_hmac, fakes):
    """Its material and its person's token: auth is asked again, and says no."""
    assert (await by_hmac.send("GET", "/v1/products")).status_code == 200
    del fakes.access_keys.keys[by_hmac.key_id]
    assert (await by_hmac.send("GET", "/v1/products")).status_code == 200
    fakes.revocations.add(Revocation(Revoked.ACCESS_KEY, by_hmac.key_id))
    assert reason_of(await by_hmac.send("GET", "/v1/products")) == (401, "ACCESS_KEY_NOT_VALID")


async def test_many_at_once_ask_for_their_key_once(by_hmac, fakes):
    """The first of them asks for all."""
    answers = await asyncio.gather(*(by_hmac.send("GET", "/v1/products") for _ in range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert (len(fakes.access_keys.fetched), len(fakes.access_keys.exchanged)) == (1, 1)


async def test_unknown_keys_are_not_asked_for_at_the_rate_of_strangers(by_hmac, fakes):
    """A no is remembered for a moment; that auth is away is not."""
    stranger = str(uuid.uuid4())
    for _ in range(5):
        await by_hmac.send("GET", "/v1/products", key_id=stranger)
    assert fakes.access_keys.fetched == [stranger]
    fakes.access_keys.away = True
    assert (await by_hmac.send("GET", "/v1/products")).status_code == 503
    fakes.access_keys.away = False
    assert (await by_hmac.send("GET", "/v1/products")).status_code == 200


async def test_a_signed_feed_ends_with_its_signature(by_hmac, fakes):
    """It has no session to go on with."""
    answer = await by_hmac.send("GET", "/v1/changes?follow=false", lasts=30)
    assert answer.status_code == 200, answer.text


def test_every_route_that_asks_who_takes_signed_requests():
    """A route of another class would not verify them; it would refuse them, which is safe and of no use."""
    asking = [
        route for route in _ROUTES if any(dependency.call is person for dependency in route.dependant.dependencies)
    ]
    assert len(asking) > 30
    assert all(isinstance(route, APIRoute) for route in asking)
    assert [route.path for route in asking if not isinstance(route, SignedRoute)] == []


class TestKeys:
    """Access keys through the door."""

    async def test_a_secret_is_in_the_answer_that_makes_the_key_and_in_no_other(self, client, fakes):
        """And that answer is stored nowhere."""
        body = {"name": "till 4", "kind": "hmac-sha256", "scopes": ["catalog:read"]}
        made = await client.post("/v1/keys", json=body, headers={"Idempotency-Key": "k"})
        assert made.status_code == 201, made.text
        assert len(made.json()["secret"]) == 44
        assert made.json()["private_key"] is None
        assert made.headers["cache-control"] == "no-store"
        shown = await client.get(made.headers["location"])
        assert {"secret", "private_key"}.isdisjoint(shown.json())
        assert shown.json()["scopes"] == ["catalog:read"]
        listed = await client.get("/v1/keys")
        assert listed.json() == {"items": [shown.json()]}

    async def test_a_pair_comes_as_a_pem_and_a_public_key_is_taken_in_both_forms(self, client, fakes):
        """What is none is named."""
        made = await client.post("/v1/keys", json={"name": "x", "kind": "ed25519"})
        assert made.json()["private_key"].startswith("-----BEGIN PRIVATE KEY-----")
        assert made.json()["secret"] is None
        public = Ed25519PrivateKey.generate().public_key()
        raw = public.public_bytes_raw()
        for text in (
            base64.b64encode(raw).decode(),
            public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        ):
            made = await client.post("/v1/keys", json={"name": "x", "kind": "ed25519", "public_key": text})
            assert fakes.access_keys.requests[-1].public_key == raw
            assert made.json()["private_key"] is None
        for text in ("A" * 44, "-----BEGIN PUBLIC KEY-----\nnone of this is one\n-----END PUBLIC KEY-----"):
            refused = await client.post("/v1/keys", json={"name": "x", "kind": "ed25519", "public_key": text})
            assert refused.status_code == 422
            assert refused.json()["errors"][0]["field"] == "public_key"

    async def test_a_key_is_rotated_and_revoked(self, client, fakes):
        """With the times that were asked for."""
        made = (await client.post("/v1/keys", json={"name": "x", "kind": "hmac-sha256"})).json()
        until = "2030-01-01T00:00:00Z"
        rotated = await client.post(f"/v1/keys/{made['key_id']}:rotate", json={"old_until": until})
        assert rotated.status_code == 201, rotated.text
        assert fakes.access_keys.requests[-2].old_until.ToJsonString() == until
        assert rotated.json()["secret"] != made["secret"]
        revoked = await client.post(f"/v1/keys/{made['key_id']}:revoke")
        assert revoked.json()["revoked_at"]
        assert (await client.get(f"/v1/keys/{uuid.uuid4()}")).status_code == 404
