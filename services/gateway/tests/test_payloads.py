"""Encrypted payloads at the door: what is in no need of a whole system."""

import base64
import time
import uuid
from typing import Any

import httpx
import orjson
import pytest
from chassis.payloads import PrivateKey, PublicKey, Suite, header_of, seal, unseal

LOG_IN = {"email": "ada@example.com", "password": "correct horse battery staple"}


def _message(key: PublicKey, body: object = LOG_IN, **header: Any) -> bytes:
    said = {"htm": "POST", "htu": "/v1/sessions", "iat": int(time.time()), "jti": str(uuid.uuid4()), **header}
    return seal(orjson.dumps(body), key, said)


def _to(key: PrivateKey) -> dict[str, str]:
    jwk = base64.urlsafe_b64encode(orjson.dumps(key.public.jwk())).rstrip(b"=").decode()
    return {"Almagest-Encrypt-To": jwk, "Accept": key.suite.media_type}


async def _send(client: httpx.AsyncClient, key: PublicKey, message: bytes, **headers: str) -> httpx.Response:
    headers = {"Content-Type": key.suite.media_type, **headers}
    return await client.post("/v1/sessions", content=message, headers=headers)


async def test_only_published_keys_are_told_and_unpublished_ones_open_too(client, fakes) -> None:
    """A client may have heard of a key from another gateway, or a while ago."""
    waiting = PrivateKey.generate(Suite.JWE)
    fakes.payload_keys.unpublished.append(waiting)
    answer = await client.get("/v1/payload-keys")
    assert answer.headers["content-type"] == "application/jwk-set+json"
    assert answer.headers["cache-control"] == "public, max-age=300"
    told = {jwk["kid"] for jwk in answer.json()["keys"]}
    assert told == {key.public.key_id for key in fakes.payload_keys.keys}
    assert all("d" not in jwk and "priv" not in jwk for jwk in answer.json()["keys"])
    response = await _send(client, waiting.public, _message(waiting.public))
    assert response.status_code == 201, response.text


@pytest.mark.parametrize("suite", list(Suite))
async def test_a_refusal_is_told_in_the_clear_and_an_answer_is_not(client, fakes, suite) -> None:
    """Problems hold no values."""
    own = PrivateKey.generate(suite)
    key = next(key.public for key in fakes.payload_keys.keys if key.suite is suite)
    refused = await _send(client, key, _message(key, {"email": "ada@example.com"}), **_to(own))
    assert refused.status_code == 422
    assert refused.json()["reason"] == "INVALID_BODY"
    done = await _send(client, key, _message(key, jti="this"), **_to(own))
    assert done.status_code == 201, done.text
    assert done.headers["vary"] == "Accept, Almagest-Encrypt-To"
    assert "access_token" in orjson.loads(unseal(done.content, own))
    assert header_of(done.content)["rid"] == "this"


async def test_without_a_memory_of_what_came_nothing_encrypted_is_taken(client, fakes) -> None:
    """It fails closed, and plain bodies go on."""
    key = fakes.payload_keys.keys[0].public
    fakes.nonces.away = True
    response = await _send(client, key, _message(key))
    assert (response.status_code, response.json()["reason"]) == (503, "NONCES_UNAVAILABLE")
    assert response.headers["retry-after"] == "1"
    assert (await client.post("/v1/sessions", json=LOG_IN)).status_code != 503


async def test_auth_is_asked_when_a_key_is_needed_and_not_for_every_stranger(client, fakes) -> None:
    """Once, and again for an unknown key, at most once a second."""
    stranger = PrivateKey.generate(Suite.JWE).public
    for _ in range(20):
        response = await _send(client, stranger, _message(stranger))
        assert (response.status_code, response.json()["reason"]) == (400, "PAYLOAD_KEY_UNKNOWN")
    assert 1 <= fakes.payload_keys.asked <= 3


async def test_while_auth_is_away_known_keys_serve_on_and_none_are_told_when_none_are_known(client, fakes) -> None:
    """It is said, with when to ask again."""
    fakes.payload_keys.away = True
    answer = await client.get("/v1/payload-keys")
    assert (answer.status_code, answer.json()["reason"]) == (503, "PAYLOAD_KEYS_UNAVAILABLE")


async def test_where_encryption_is_required_nothing_personal_goes_in_the_clear(settings, fakes) -> None:
    """Neither in nor out; nothing is done."""
    fakes = type(fakes)(settings.model_copy(update={"payload_encryption": "required"}))
    key, own = fakes.payload_keys.keys[0].public, PrivateKey.generate(Suite.JWE)
    transport = httpx.ASGITransport(fakes.app)
    async with httpx.AsyncClient(transport=transport, base_url="https://gateway") as client:
        plain = await client.post("/v1/sessions", json=LOG_IN, headers=_to(own))
        assert (plain.status_code, plain.json()["reason"]) == (415, "PAYLOAD_ENCRYPTION_REQUIRED")
        no_key = await _send(client, key, _message(key))
        assert (no_key.status_code, no_key.json()["errors"][0]["field"]) == (400, "Almagest-Encrypt-To")
        bearer = {"Authorization": f"Bearer {fakes.access_token()}"}
        assert (await client.get("/v1/users/me", headers=bearer)).status_code == 400
        sealed = await client.get("/v1/users/me", headers={**bearer, **_to(own)})
        assert b"user_id" in unseal(sealed.content, own)
        assert (await client.get("/v1/payload-keys")).status_code == 200
