"""The rotation of the local authority: at no step, and after a crash at none, does anybody meet a stranger."""

import hashlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson
import pytest
from almagest_cli.local import authority as authorities
from almagest_cli.local.authority import LocalAuthority
from almagest_cli.local.layout import WORKLOADS, Places
from almagest_cli.local.rotation import Rotation
from almagest_cli.local.trust import Lifetimes
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

AT_ONCE = Lifetimes(propagation=timedelta())


def leaf(directory) -> x509.Certificate:
    return x509.load_pem_x509_certificate((directory / "tls.crt").read_bytes())


def bundle(directory) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates((directory / "ca.crt").read_bytes())


def everybody_believes_everybody(authority) -> bool:
    """Each workload's certificate is good for what each workload, and each client, trusts."""
    places = [authority.identity(name) for name in WORKLOADS]
    for reader in (*places, authority.directory):
        verifier = PolicyBuilder().store(Store(bundle(reader))).build_client_verifier()
        for shown in places:
            verifier.verify(leaf(shown), [])
    return True


@pytest.fixture
def authority(tmp_path):
    authority = LocalAuthority(tmp_path / "authority", lifetimes=AT_ONCE)
    authority.renew(WORKLOADS)
    authority.issue_web()
    return authority


@pytest.fixture
def rotation(authority, tmp_path):
    return Rotation(authority, Places(tmp_path))


def test_a_rotation_publishes_activates_taints_and_revokes(authority, rotation):
    """The new one is believed before it signs, signs before anything is replaced for its sake, and then stands alone."""
    first = authority.certificate
    rotation.begin()
    assert authority.trust.step == "published"
    assert (len(bundle(authority.directory)), authority.certificate) == (2, first)
    assert authority.renew(WORKLOADS) == []
    assert everybody_believes_everybody(authority)

    assert rotation.advance() == "activated"
    second = authority.certificate
    assert second != first
    assert leaf(authority.issue("worker")).issuer == second.subject
    assert leaf(authority.identity("gateway")).issuer == first.subject
    assert authority.renew(WORKLOADS) == []
    assert everybody_believes_everybody(authority)

    assert rotation.advance() == "tainted"
    assert {leaf(authority.identity(name)).issuer for name in WORKLOADS} == {second.subject}
    assert leaf(authority.directory / "web").issuer == second.subject
    assert len(bundle(authority.directory)) == 2
    assert everybody_believes_everybody(authority)

    assert rotation.advance() == ""
    assert bundle(authority.directory) == bundle(authority.identity("worker")) == [second]
    assert len(list(authority.directory.glob("authorities/*/ca.key"))) == 1
    assert rotation.advance() is None
    assert everybody_believes_everybody(authority)


@pytest.mark.parametrize("step", range(5))
def test_a_crash_in_a_step_is_made_good_by_whoever_comes_next(authority, tmp_path, monkeypatch, step):
    """The step is on disk before anything follows from it: a new process ends what was begun, in the same order."""
    before = authority.certificate
    rotation = Rotation(authority, Places(tmp_path))
    if step:
        rotation.begin()
    for _ in range(1, step):
        rotation.advance()
    written: list[str] = []
    genuine = authorities.write_private

    def crash(path, content) -> None:
        if path.name != "authority.json" and written:
            raise OSError("the machine lost its power")
        written.append(path.name)
        genuine(path, content)

    with monkeypatch.context() as dying:
        dying.setattr(authorities, "write_private", crash)
        written.append("before")
        try:
            if step:
                rotation.advance()
            else:
                rotation.begin()
        except OSError as error:
            assert str(error) == "the machine lost its power"  # noqa: PT017
    later = LocalAuthority(authority.directory)
    later.renew(WORKLOADS)
    assert everybody_believes_everybody(later)
    resumed = Rotation(later, Places(tmp_path))
    seen = []
    while (now := resumed.advance()) is not None:
        later.renew(WORKLOADS)
        assert everybody_believes_everybody(later)
        seen.append(now)
    assert seen == ["activated", "tainted", ""][min(step, 3) :]
    assert later.certificate != before
    assert later.trust.step == ""


class Process(BaseHTTPRequestHandler):
    """A service that says what it uses."""

    uses = ("", "")

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        trusted, issuer = self.uses
        self.wfile.write(f'almagest_identity_info{{bundle="{trusted}",issuer="{issuer}",serial="1f"}} 1.0\n'.encode())

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def process(tmp_path) -> Iterator[type[Process]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Process)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ports = {"gateway": 1, "grpc": {}, "http": {"worker": server.server_port, "auth": 1}}
    Places(tmp_path).description.write_bytes(orjson.dumps({"ports": ports}))
    yield Process
    server.shutdown()
    server.server_close()


def test_no_step_is_taken_before_the_running_processes_have_followed_the_last(authority, rotation, process):
    """A process that has not taken up the new bundle, or still shows what the old authority signed, holds the rotation; one that does not run does not."""

    def trusted() -> str:
        return hashlib.sha256((authority.directory / "ca.crt").read_bytes()).hexdigest()

    def name() -> str:
        return str(next(iter(authority.certificate.subject)).value)

    old = name()
    process.uses = (trusted(), old)
    rotation.begin()
    assert rotation.advance() is None
    process.uses = (trusted(), old)
    assert rotation.advance() == "activated"
    assert rotation.advance() == "tainted"
    assert rotation.advance() is None
    process.uses = (trusted(), name())
    assert rotation.advance() == ""


def test_a_process_that_never_answers_is_not_waited_for_until_the_old_authority_expires(tmp_path, process):
    """Patience ends: after an eighth of the authority's life at the latest the step is taken."""
    impatient = Lifetimes(propagation=timedelta(), authority=timedelta(seconds=0.8))
    authority = LocalAuthority(tmp_path / "authority", lifetimes=impatient)
    rotation = Rotation(authority, Places(tmp_path))
    process.uses = ("stuck", "stuck")
    rotation.begin()
    since = authority.trust.since
    while (step := rotation.advance()) is None:
        pass
    assert step == "activated"
    assert authority.trust.since - since >= 0.1


def test_the_authority_is_due_in_the_second_half_of_its_life_and_signs_nothing_beyond_it(tmp_path):
    """A leaf never outlives its authority, and a rotation begins while there is time for it."""
    short = Lifetimes(leaf=timedelta(hours=2), authority=timedelta(hours=1))
    authority = LocalAuthority(tmp_path / "authority", lifetimes=short)
    rotation = Rotation(authority, Places(tmp_path))
    assert not rotation.is_due()
    assert leaf(authority.issue("worker")).not_valid_after_utc == authority.certificate.not_valid_after_utc
    assert LocalAuthority(tmp_path / "authority").lifetimes == short
    spent = Lifetimes(authority=timedelta(milliseconds=1))
    aged = LocalAuthority(tmp_path / "aged", lifetimes=spent)
    assert Rotation(aged, Places(tmp_path)).is_due()


def test_the_authority_of_an_older_version_is_adopted(authority, tmp_path):
    """A state directory from before there could be several authorities goes on with its one."""
    (place,) = authority.directory.glob("authorities/*")
    old = tmp_path / "old"
    old.mkdir()
    for name in ("ca.key", "ca.crt"):
        (old / name).write_bytes((place / name).read_bytes())
    adopted = LocalAuthority(old)
    assert adopted.certificate == authority.certificate
    assert not (old / "ca.key").exists()
    assert adopted.certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=3000)
