"""Signed requests through the whole system: what docs/signing.md tells to type, the command line by key, and mutations."""

import asyncio
import os
import re
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import orjson
import pytest
from almagest_cli.local.postgres import EmbeddedPostgres
from almagest_cli.signing import Key, SignedAuth
from chassis.dpop import Prover
from harness.door import Door
from harness.running import RunningSystem, running_system
from harness.signature_storm import report, storm

PAGE = Path(__file__).resolve().parents[2] / "docs" / "signing.md"
PASSWORD = "correct horse battery staple"
PRICE = '{"amount":"9.50","currency":"EUR","reason":"says \\"sale\\""}'
pytestmark = pytest.mark.xdist_group("signing")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    """A system in which one person may ask often, and which trusts the memory of its Redis soon."""
    told = {
        "ALMAGEST_PERSON_REQUESTS_PER_MINUTE": "100000000",
        "ALMAGEST_ADDRESS_REQUESTS_PER_MINUTE": "100000000",
        "ALMAGEST_SIGNATURE_CLOCK_SKEW_SECONDS": "1",
    }
    state = tmp_path_factory.mktemp("system") / "state"
    with running_system(state, told=lambda service: told if service == "gateway" else {}) as running:
        yield running


@pytest.fixture(scope="module")
def door(system: RunningSystem) -> Iterator[Door]:
    with Door.to(system) as door:
        yield door


@pytest.fixture
def environment(system: RunningSystem, door: Door, tmp_path: Path) -> dict[str, str]:
    """What the recipes and the command line are told."""
    return {
        **os.environ,
        "ALMAGEST_URL": system.url,
        "ALMAGEST_CA": str(system.ca),
        "ALMAGEST_STATE": str(tmp_path / "state"),
        "TOKEN": door.http.headers["authorization"].partition(" ")[2],
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def signed_client(system: RunningSystem, key: Key) -> httpx.Client:
    tls = ssl.create_default_context(cafile=str(system.ca))
    return httpx.Client(base_url=system.url, verify=tls, auth=SignedAuth(key), http2=True, timeout=30)


def key_of(system: RunningSystem, door: Door, **more: Any) -> Key:
    """A key, once Redis has known everything for long enough, as it has after the first seconds of a system."""
    made = door.call("POST", "/v1/keys", json={"name": "test", "kind": "ed25519", **more})
    assert made.status_code == 201, made.text
    key, deadline = Key.of(made.json()), time.monotonic() + 20
    with signed_client(system, key) as client:
        while client.get("/v1/users/me").status_code == 503:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    return key


def test_the_recipes_of_the_page_work_as_they_stand(
    system: RunningSystem, door: Door, environment: dict[str, str], tmp_path: Path
) -> None:
    """In a plain shell with openssl, and in Python: each writes its product."""
    key_of(system, door)
    script = "set -eu\n" + "".join(blocks("sh"))
    script += "\nexport URL CA KEY_ID\n" + f"{sys.executable} - <<'PYTHON'\n{blocks('python')[0]}PYTHON\n"
    done = subprocess.run(
        ["sh", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("201")
    for number, name in enumerate(("Signed with HMAC", "Signed with Ed25519", "Signed"), 1):
        assert door.get(f"/v1/products/sku:signed-{number}")["name"] == name


def test_the_command_line_acts_by_a_key(
    system: RunningSystem, door: Door, environment: dict[str, str], tmp_path: Path
) -> None:
    """Issued, used for a read, a write and a file, rotated with overlap, revoked: then it is refused."""

    def almagest(*arguments: str, key: str | None = None) -> subprocess.CompletedProcess[str]:
        told = environment | ({"ALMAGEST_KEY": key} if key else {"ALMAGEST_TOKEN": environment["TOKEN"]})
        return subprocess.run(
            ["almagest", *arguments], env=told, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )

    key_of(system, door)
    made = almagest("keys", "create", "till", "--file", "till.key", "--json")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "till.key").stat().st_mode & 0o077 == 0
    assert "private_key" not in made.stdout
    key_id = orjson.loads(made.stdout)["key_id"]
    written = almagest(
        "call", "POST", "/v1/products", "--data", '{"sku":"by-key","kind":"general","name":"By key"}', key="till.key"
    )
    assert written.returncode == 0, written.stderr
    curl = f"almagest sign PUT /v1/products/sku:by-key/price --data '{PRICE}' | curl --silent --show-error -K -"
    priced = subprocess.run(
        ["sh", "-c", curl],
        env=environment | {"ALMAGEST_KEY": "till.key"},
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert orjson.loads(priced.stdout)["revision"] == 1, priced.stdout
    rows = b"".join(orjson.dumps({"sku": f"row-{n}", "kind": "general", "name": "R"}) + b"\n" for n in range(2000))
    (tmp_path / "rows.ndjson").write_bytes(rows)
    imported = almagest("import", "rows.ndjson", key="till.key")
    assert imported.returncode == 0, imported.stderr
    door.await_that("/v1/products/sku:by-key", lambda _: True)
    rotated = almagest("keys", "rotate", key_id, "--file", "next.key", key="till.key")
    assert rotated.returncode == 0, rotated.stderr
    for file in ("till.key", "next.key"):
        assert orjson.loads(almagest("call", "GET", "/v1/users/me", key=file).stdout)["email"]
    assert almagest("keys", "revoke", key_id, key="till.key").returncode == 0
    refused = almagest("call", "GET", "/v1/users/me", key="till.key")
    assert refused.returncode == 4, refused.stdout
    assert almagest("call", "GET", "/v1/users/me", key="next.key").returncode == 0
    listed = orjson.loads(almagest("keys", "list", "--json").stdout)["items"]
    assert next(one for one in listed if one["key_id"] == key_id)["revoked_at"]


def test_a_key_is_narrower_than_its_person(door: Door, system: RunningSystem) -> None:
    """At every service, not only at the door; and a revocation is heard everywhere."""
    key = key_of(system, door, scopes=["catalog:read"])
    with signed_client(system, key) as client:
        assert client.get("/v1/products").status_code == 200
        assert client.get("/v1/jobs").status_code == 403
        refused = client.post("/v1/products", json={"sku": "narrow", "kind": "general", "name": "N"})
        assert refused.status_code == 403, refused.text
        assert client.post("/v1/keys", json={"name": "x", "kind": "ed25519"}).status_code == 403
        assert door.call("POST", f"/v1/keys/{key.key_id}:revoke").status_code == 200
        deadline = time.monotonic() + 10
        while (answer := client.get("/v1/products")).status_code == 200:
            assert time.monotonic() < deadline
        # Whoever hears of it first says so: the gateway, or the service behind it.
        assert answer.json()["reason"] in ("ACCESS_KEY_NOT_VALID", "TOKEN_REVOKED")


async def in_the_log(system: RunningSystem, stream: str) -> list[tuple[str, str, bool]]:
    """Type, id and whether there is a hash, of each event of a stream."""
    server, found = EmbeddedPostgres(system.local.places.state / "postgres"), list[tuple[str, str, bool]]()
    for shard in range(system.local.shards):
        connection = await asyncpg.connect(server.superuser_dsn(f"events_{shard}"))
        try:
            query = "SELECT type, event_id::text, length(hash) = 32 FROM events WHERE stream = $1 ORDER BY position"
            found += [tuple(row) for row in await connection.fetch(query, stream)]
        finally:
            await connection.close()
    return found


def test_a_session_bound_to_a_key_from_log_in_to_the_log(system: RunningSystem, door: Door) -> None:
    """Read with a proof; refused without one, with one again, and with another's; all of it in the audit, and from
    there in the log, where no one changes it unseen.
    """
    key_of(system, door)  # Redis has known everything for long enough
    prover, email = Prover.generate(), f"{uuid.uuid4().hex}@example.org"
    body = {"email": email, "password": PASSWORD, "first_name": "Ada", "last_name": "L", "roles": ["viewer"]}
    made = door.call("POST", "/v1/users", json=body)
    assert made.status_code == 201, made.text
    user_id = made.json()["user_id"]
    tls = ssl.create_default_context(cafile=str(system.ca))
    with httpx.Client(base_url=system.url, verify=tls, http2=True, timeout=30) as http:

        def proof(method: str, path: str, token: str | None = None, by: Prover = prover) -> dict[str, str]:
            return {"DPoP": by.proof(method=method, url=f"{system.url}{path}", access_token=token)}

        wrong = {"email": email, "password": "not this one, surely"}
        assert http.post("/v1/sessions", json=wrong, headers=proof("POST", "/v1/sessions")).status_code == 401
        right = {"email": email, "password": PASSWORD}
        session = http.post("/v1/sessions", json=right, headers=proof("POST", "/v1/sessions")).json()
        assert session["token_type"] == "DPoP"
        token = session["access_token"]
        bound = {"Authorization": f"DPoP {token}"}
        once = bound | proof("GET", "/v1/users/me", token)
        assert http.get("/v1/users/me", headers=once).json()["user_id"] == user_id
        refusals = {
            "again": once,
            "without": bound,
            "as a bearer": {"Authorization": f"Bearer {token}"},
            "another's": bound | proof("GET", "/v1/users/me", token, Prover.generate()),
            "for another target": bound | proof("GET", "/v1/products", token),
        }
        for how, headers in refusals.items():
            answer = http.get("/v1/users/me", headers=headers)
            assert answer.status_code == 401, how
            assert answer.json()["reason"] in {"DPOP_PROOF_INVALID", "DPOP_PROOF_NEEDED"}, how
        refresh = {"refresh_token": session["refresh_token"]}
        stolen = proof("POST", "/v1/sessions:refresh", by=Prover.generate())
        assert http.post("/v1/sessions:refresh", json=refresh, headers=stolen).status_code == 401
        assert http.post("/v1/sessions:refresh", json=refresh).status_code == 401

    audit = door.call("GET", f"/v1/audit?subject={user_id}").json()["items"]
    told = [(one["type"], one["event_id"]) for one in reversed(audit)]
    assert {"UserCreated", "LogInFailed", "LoggedIn"} <= {name for name, _ in told}

    deadline = time.monotonic() + 20
    while len(logged := asyncio.run(in_the_log(system, f"audit-{user_id}"))) < len(told):
        assert time.monotonic() < deadline, "the audit never gets into the log"
        time.sleep(0.1)
    assert [(name.rpartition(".")[2], event_id) for name, event_id, _ in logged] == told
    assert all(hashed for *_, hashed in logged)


def test_of_some_thousand_mutations_none_is_accepted(system: RunningSystem, capsys: pytest.CaptureFixture[str]) -> None:
    """The small form of `make signature-storm`."""
    began = time.monotonic()
    tally = storm(system, seed=int(began) % 100_000, requests=4000, disturbances=2)
    report(tally, time.monotonic() - began)
    assert not tally.wrong, capsys.readouterr().out
    assert tally.accepted >= 10
    assert tally.refused["SIGNATURE_REPLAYED"] > 100
