"""Tokens that are bound to a key are worth nothing without it."""

import time

import pytest
from chassis.dpop import Prover
from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey

CREDENTIALS = {"email": "ada@example.com", "password": "correct horse battery staple"}
SESSIONS = "https://gateway/v1/sessions"
ME = "https://gateway/v1/users/me"


@pytest.fixture
def prover():
    return Prover.generate()


@pytest.fixture
async def token(client, prover):
    """An access token that is bound to the prover's key."""
    headers = {"DPoP": prover.proof(method="POST", url=SESSIONS)}
    answer = await client.post("/v1/sessions", json=CREDENTIALS, headers=headers)
    assert (answer.status_code, answer.json()["token_type"]) == (201, "DPoP")
    return answer.json()["access_token"]


async def me(client, token, proof, *, scheme="DPoP", path="/v1/users/me"):
    headers = {"Authorization": f"{scheme} {token}"} | ({} if proof is None else {"DPoP": proof})
    answer = await client.get(path, headers=headers)
    return answer.status_code, answer.json().get("reason")


async def test_a_bound_token_works_with_a_proof_for_each_request(client, prover, token):
    """Also where one product is read past the usual machinery, whatever the answer is."""
    for _ in range(2):
        proof = prover.proof(method="GET", url=ME, access_token=token)
        assert await me(client, token, proof) == (200, None)
    product = "/v1/products/sku:volvo-v60"
    proof = prover.proof(method="GET", url=f"https://gateway{product}", access_token=token)
    assert (await me(client, token, proof, path=product))[0] == 404


async def test_a_bound_token_is_no_bearer_token(client, prover, token):
    """Not even after its owner has used it, which is when it is remembered."""
    assert await me(client, token, prover.proof(method="GET", url=ME, access_token=token)) == (200, None)
    assert await me(client, token, None, scheme="Bearer") == (401, "DPOP_PROOF_NEEDED")
    assert await me(client, token, None) == (401, "DPOP_PROOF_NEEDED")
    assert await me(client, token, None, path="/v1/products/sku:volvo-v60") == (401, "DPOP_PROOF_NEEDED")
    stranger = Prover.generate().proof(method="GET", url=ME, access_token=token)
    assert await me(client, token, stranger) == (401, "DPOP_PROOF_NEEDED")


async def test_a_proof_comes_once(client, prover, token, fakes):
    """And while nobody can say whether it came before, it is refused."""
    proof = prover.proof(method="GET", url=ME, access_token=token)
    assert await me(client, token, proof) == (200, None)
    assert await me(client, token, proof) == (401, "DPOP_PROOF_INVALID")
    fakes.nonces.away = True
    another = prover.proof(method="GET", url=ME, access_token=token)
    assert await me(client, token, another) == (503, "NONCES_UNAVAILABLE")


@pytest.mark.parametrize(
    "claims",
    [
        {"htm": "POST"},
        {"htu": "https://gateway/v1/users"},
        {"htu": "https://elsewhere/v1/users/me"},
        {"htu": "http://gateway/v1/users/me"},
        {"htu": None},
        {"iat": 1},
        {"iat": "now"},
        {"iat": int(time.time()) + 3600},
        {"jti": ""},
        {"jti": "x" * 201},
        {"jti": None},
        {"ath": "another"},
        {"ath": None},
    ],
)
async def test_a_proof_for_something_else_is_none(client, prover, token, claims):
    """Another method, target, time or token; or without an id."""
    proof = prover.proof(method="GET", url=ME, access_token=token, **claims)
    assert await me(client, token, proof) == (401, "DPOP_PROOF_INVALID")


@pytest.mark.parametrize("what", ["garbage", "typ", "alg", "symmetric", "private", "no key", "signature", "kty"])
async def test_what_is_no_proof_is_refused(client, prover, token, what):
    """Whatever is wrong with it."""
    good = prover.proof(method="GET", url=ME, access_token=token)
    key, other = OKPKey.generate_key("Ed25519"), ECKey.generate_key("P-256")
    claims = {"jti": "1", "htm": "GET", "htu": ME, "iat": int(time.time())}
    header = {"typ": "dpop+jwt", "alg": "Ed25519", "jwk": key.as_dict(private=False)}

    def signed(**changes):
        said = {name: value for name, value in (header | changes).items() if value is not None}
        return jwt.encode(said, claims, key, algorithms=["Ed25519"])

    proofs = {
        "garbage": lambda: "a.b.c",
        "typ": lambda: signed(typ="JWT"),
        "alg": lambda: good.replace(good.split(".")[0], "eyJhbGciOiJub25lIiwidHlwIjoiZHBvcCtqd3QifQ"),
        "symmetric": lambda: signed(jwk={"kty": "oct", "k": "c2VjcmV0"}),
        "private": lambda: signed(jwk=key.as_dict(private=True)),
        "no key": lambda: signed(jwk=None),
        "signature": lambda: good[:-4] + ("AAAA" if good[-4:] != "AAAA" else "BBBB"),
        "kty": lambda: signed(jwk=other.as_dict(private=False)),
    }
    assert await me(client, token, proofs[what]()) == (401, "DPOP_PROOF_INVALID")


async def test_es256_is_good_as_well(client, fakes):
    """It is what browsers have had for longest."""
    key = ECKey.generate_key("P-256")
    header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": key.as_dict(private=False)}
    claims = {"jti": "1", "htm": "POST", "htu": "HTTPS://gateway:443/v1/sessions?x#y", "iat": int(time.time())}
    proof = jwt.encode(header, claims, key, algorithms=["ES256"])
    answer = await client.post("/v1/sessions", json=CREDENTIALS, headers={"DPoP": proof})
    assert answer.status_code == 201, answer.text
    assert fakes.auth.bound[answer.json()["access_token"]] == key.thumbprint()
