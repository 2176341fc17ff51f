"""People, their sessions and the audit at the command line, against the running system.

The command runs in this process: there are many, and most of the time of a process of its own goes into its imports.
"""

import io
import json
import stat
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from almagest_cli.__main__ import main
from harness.running import RunningSystem

pytestmark = pytest.mark.xdist_group("system")

PASSWORD = "correct horse battery staple"


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def anyone(
    state: Path, system: RunningSystem, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Done]:
    """The command, at the running system."""
    for name in ("ALMAGEST_TOKEN", "ALMAGEST_KEY"):
        monkeypatch.delenv(name, raising=False)
    where = {"ALMAGEST_URL": system.url, "ALMAGEST_CA": str(system.ca), "ALMAGEST_STATE": str(state)}

    def run(*arguments: str, stdin: str = "", **more: str) -> Done:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["almagest", *arguments])
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            for name, value in (where | more).items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main()
        told = capsys.readouterr()
        return Done(int(ended.value.code or 0), told.out, told.err)

    return run


@pytest.fixture
def admin(anyone: Callable[..., Any], system: RunningSystem) -> Callable[..., Any]:
    """The command, as the admin."""
    log_in(anyone, system.admin_email, system.admin_password)
    return anyone


def log_in(almagest: Callable[..., Any], email: str, password: str = PASSWORD, *more: str) -> None:
    done = almagest("login", "--email", email, "--password-stdin", *more, stdin=f"{password}\n")
    assert done.code == 0, done.err


def address() -> str:
    return f"{uuid.uuid4().hex}@example.org"


@pytest.fixture
def people(tmp_path: Path) -> Iterator[list[dict[str, str]]]:
    named = [{"email": address(), "first_name": "Ada", "last_name": f"Number {number}"} for number in range(3)]
    (tmp_path / "people.ndjson").write_text(
        "\n".join(json.dumps(one | {"password": PASSWORD, "roles": ["viewer"]}) for one in named)
    )
    lines = [f"{one['email']},{PASSWORD},{one['first_name']},{one['last_name']},viewer editor" for one in named[1:]]
    lines.append(f"{address()},short,Eve,Adams,viewer")
    (tmp_path / "people.csv").write_text("\n".join(["email,password,first_name,last_name,roles", *lines]))
    return named


def test_people_come_in_bulk_and_change(admin, people, tmp_path):
    """Who is new is created, who is there or is wrong is refused by name; roles hold at once."""
    made = admin("users", "create", str(tmp_path / "people.ndjson"), "--json")
    assert made.code == 0, made.err
    results = [json.loads(line) for line in made.out.splitlines()]
    assert [one["user"]["full_name"] for one in results] == [f"Ada Number {number}" for number in range(3)]
    again = admin("users", "create", str(tmp_path / "people.csv"))
    assert (again.code, again.out) == (5, "0 created, 3 refused.\n")
    assert [line.partition(":")[0] for line in again.err.splitlines()][:2] == [one["email"] for one in people[1:]]
    email, user_id = people[0]["email"], results[0]["user"]["user_id"]
    assert admin("users", "show", email, "--json").json["user_id"] == user_id
    assert admin("users", "roles", user_id, "editor", "--json").json["roles"] == ["editor"]
    assert admin("users", "disable", email, "--json").json["disabled"] is True
    assert admin("login", "--email", email, "--password-stdin", stdin=f"{PASSWORD}\n").code == 4
    assert admin("users", "enable", email, "--json").json["disabled"] is False
    listed = [json.loads(line) for line in admin("users", "list", "--all", "--json").out.splitlines()]
    assert {one["email"] for one in people} <= {one["email"] for one in listed}
    assert admin("users", "show", "nobody").code == 2


def test_a_file_without_people_is_told_apart(admin, tmp_path):
    """Nothing is sent."""
    for content in ("{", '["a"]', '{"password": "x"}'):
        (tmp_path / "wrong.ndjson").write_text(content)
        done = admin("users", "create", str(tmp_path / "wrong.ndjson"))
        assert (done.code, done.out) == (2, ""), done.err


def test_a_bound_session_is_worthless_without_its_key(admin, people, tmp_path, state):
    """The key stays in the private file; tokens copied out of it are refused, and the session can be ended."""
    assert admin("users", "create", str(tmp_path / "people.ndjson")).code == 0
    email = people[0]["email"]
    log_in(admin, email, PASSWORD, "--bound")
    kept = state / "session.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert admin("list", "--json").code == 0
    assert admin("token").code == 1
    session = json.loads(kept.read_bytes())
    for copied in ({**session, "private_key": ""}, {k: v for k, v in session.items() if k != "private_key"}):
        kept.write_text(json.dumps(copied))
        assert admin("list").code == 4
    assert admin("list", ALMAGEST_TOKEN=session["access_token"]).code == 4
    # The refresh token is bound as well: what is nearly over is exchanged with a proof.
    kept.write_text(json.dumps(session | {"expires_at": "2026-01-01T00:00:00+00:00"}))
    [one] = admin("sessions", "list", "--json").json["items"]
    assert (one["bound"], one["current"]) == (True, True)
    assert json.loads(kept.read_bytes())["access_token"] != session["access_token"]
    assert admin("sessions", "end", one["session_id"], "--json").json == {"ended": one["session_id"]}
    assert admin("list").code == 4


def test_the_audit_is_shown_page_by_page_and_by_filter(admin, people, system, tmp_path):
    """To admins; whoever is none gets nothing."""
    assert admin("users", "create", str(tmp_path / "people.ndjson")).code == 0
    user = admin("users", "show", people[0]["email"], "--json").json["user_id"]
    assert admin("users", "roles", user, "editor").code == 0
    found = [json.loads(line) for line in admin("audit", "--subject", user, "--all", "--json").out.splitlines()]
    types = [one["type"] for one in found]
    assert {one["subject_id"] for one in found} == {user}
    assert {"UserCreated", "RolesChanged"} <= set(types)
    only = admin("audit", "--subject", user, "--type", "UserCreated", "--limit", "1", "--json").json
    assert [one["type"] for one in only["items"]] == ["UserCreated"]
    assert "UserCreated" in admin("audit", "--subject", user).out
    assert admin("audit", "--since", "yesterday").code == 1
    log_in(admin, people[1]["email"])
    refused = admin("audit")
    assert (refused.code, refused.out) == (4, "")
