"""`almagest identity`: what is shown, renewed, rotated and refused, on the files of a state directory."""

from datetime import timedelta

import pytest
from almagest_cli.local.authority import LocalAuthority
from almagest_cli.local.layout import WORKLOADS
from almagest_cli.local.trust import Lifetimes
from chassis.identity.denials import DenyList
from chassis.identity.spiffe import SpiffeId


@pytest.fixture
def authority(state) -> LocalAuthority:
    authority = LocalAuthority(state / "authority", lifetimes=Lifetimes(propagation=timedelta(milliseconds=1)))
    authority.renew(WORKLOADS)
    authority.issue_web()
    return authority


def test_the_status_names_every_workload_and_what_is_trusted(almagest, authority):
    """Serial number, end and signer of each, for people and for programs."""
    told = almagest("identity", "status", "--json").json
    assert [row["workload"] for row in told["workloads"]] == [*WORKLOADS, "web"]
    assert all(row["serial"] and row["seconds_left"] > 0 for row in told["workloads"])
    assert [one["signs"] for one in told["authorities"]] == [True]
    assert (told["step"], told["denied"]) == ("", [])
    assert "event-store" in almagest("identity", "status").out


def test_rotate_issues_everything_anew_and_with_authority_the_authority_too(almagest, authority):
    """First the leaves under the same authority; then, by all four steps, everything under another."""
    before = almagest("identity", "status", "--json").json
    renewed = almagest("identity", "rotate", "--json").json["renewed"]
    assert renewed == [*WORKLOADS, "web"]
    after = almagest("identity", "status", "--json").json
    assert {row["serial"] for row in before["workloads"]}.isdisjoint(row["serial"] for row in after["workloads"])
    assert after["authorities"] == before["authorities"]
    assert almagest("identity", "rotate", "--authority", "--json").json["steps"] == [
        "published",
        "activated",
        "tainted",
        "revoked",
    ]
    last = almagest("identity", "status", "--json").json
    (signs,) = last["authorities"]
    assert signs["subject"] != before["authorities"][0]["subject"]
    assert {row["issuer"] for row in last["workloads"]} == {signs["subject"]}


def test_deny_and_allow_write_what_the_services_read(almagest, authority, state):
    """By name, by SPIFFE id or by serial number; each entry once, the reason beside it, others untouched."""
    file = state / "deny-list"
    file.write_text("# by hand\n", encoding="utf-8")
    assert almagest("identity", "deny", "worker", "--reason", "stolen\nlaptop").code == 0
    assert almagest("identity", "deny", "spiffe://almagest.internal/worker", "--reason", "stolen laptop").code == 0
    assert almagest("identity", "deny", "serial:0x7F").code == 0
    assert file.read_text(encoding="utf-8").splitlines() == [
        "# by hand",
        "spiffe://almagest.internal/worker  # stolen laptop",
        "serial:7f",
    ]
    denials = DenyList(file)
    worker, gateway = SpiffeId.of("worker", "almagest.internal"), SpiffeId.of("gateway", "almagest.internal")
    assert (denials.denies(worker), denials.denies(gateway), denials.denies(gateway, 0x7F)) == (True, False, True)
    assert almagest("identity", "allow", "worker").code == 0
    assert denials.refresh()
    assert not denials.denies(worker)
    assert almagest("identity", "allow", "worker").code == 1


def test_what_is_no_workload_is_not_denied(almagest, authority):
    """A misspelt name would shut out nobody, and look as if it did."""
    for entry in ("wroker", "spiffe://elsewhere.example/worker", "serial:xyz"):
        assert almagest("identity", "deny", entry).code == 2, entry
    assert almagest("identity", "status", "--json").json["denied"] == []


def test_without_a_system_there_is_nothing_to_show(almagest):
    """And nothing is made either."""
    done = almagest("identity", "status")
    assert (done.code, "almagest up" in done.err) == (3, True)
