"""Which authorities are trusted, which of them signs, and how one takes the place of another.

Nobody may meet a certificate whose authority they do not know. So a rotation goes by steps, each of which must have
reached everybody before the next:

1. `published`: the new authority is trusted beside the old one; the old one signs.
2. `activated`: the new one signs what falls due.
3. `tainted`: what the old one signed is issued anew, due or not.
4. The old one is revoked: trusted no more, and its key forgotten.

Each step is one replacement of one small file, `authority.json`. All else (bundles, certificates) follows from it and
is written again by whoever comes next, so a crash between any two lines loses nothing.
"""

import os
import secrets
import shutil
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from almagest_cli.local.daemons import write_private

PUBLISHED, ACTIVATED, TAINTED = "published", "activated", "tainted"
_CLOCK_SKEW = timedelta(minutes=5)
_LONGEST_WAIT = timedelta(minutes=5)


@dataclass(frozen=True)
class Lifetimes:
    """How long certificates last, and how long a change of what is trusted needs to reach everybody.

    Attributes:
        leaf: of a workload's certificate. It is renewed at half of it.
        web: of the gateway's public one; at most 397 days, the longest that browsers accept.
        authority: of the authority itself, likewise.
        propagation: the least time between two steps of its rotation; more than the services take to look
            (`ALMAGEST_IDENTITY_POLL_SECONDS`).
    """

    leaf: timedelta = timedelta(hours=24)
    web: timedelta = timedelta(days=397)
    authority: timedelta = timedelta(days=3650)
    propagation: timedelta = timedelta(seconds=5)

    @property
    def patience(self) -> timedelta:
        """The longest wait for a process that does not say what it trusts."""
        return min(_LONGEST_WAIT, self.authority / 8)

    @classmethod
    def kept(cls, directory: Path, given: "Lifetimes | None") -> "Lifetimes":
        """Those given, for this directory from now on; or those that it was given before."""
        file = directory / "lifetimes.json"
        if given is not None:
            write_private(file, orjson.dumps({name: one.total_seconds() for name, one in given.each()}))
            return given
        try:
            return cls(
                **{name: timedelta(seconds=seconds) for name, seconds in orjson.loads(file.read_bytes()).items()}
            )
        except FileNotFoundError:
            return cls()

    @classmethod
    def told(cls) -> "Lifetimes | None":
        """What the environment says: ALMAGEST_LEAF_SECONDS, ALMAGEST_WEB_SECONDS, ALMAGEST_AUTHORITY_SECONDS and
        ALMAGEST_PROPAGATION_SECONDS; None when it says nothing.
        """
        seconds = {name: os.environ.get(f"ALMAGEST_{name.upper()}_SECONDS") for name, _ in cls().each()}
        said = {name: timedelta(seconds=float(text)) for name, text in seconds.items() if text}
        return replace(cls(), **said) if said else None

    def each(self) -> list[tuple[str, timedelta]]:
        """Name and length of each."""
        return [(name, getattr(self, name)) for name in ("leaf", "web", "authority", "propagation")]


@dataclass(frozen=True)
class _State:
    active: str
    trusted: tuple[str, ...]
    step: str = ""
    since: float = 0.0


class Trust:
    """The authorities of one directory."""

    def __init__(self, directory: Path, lifetime: timedelta) -> None:
        self._directory = directory
        self._lifetime = lifetime
        self._file = directory / "authority.json"
        self._state = _State("", ())

    @classmethod
    def found(cls, directory: Path, lifetime: timedelta) -> "Trust":
        """The one that is there, or a new one."""
        trust = cls(directory, lifetime)
        try:
            trust.refresh()
            if trust.signer()[1].not_valid_after_utc > datetime.now(UTC):
                return trust
        except (OSError, ValueError, TypeError):
            pass
        trust._write(_State((first := trust._adopted() or trust._make()), (first,)))
        return trust

    def refresh(self) -> None:
        """See what others have done meanwhile."""
        content = orjson.loads(self._file.read_bytes())
        self._state = _State(**(content | {"trusted": tuple(content["trusted"])}))

    @property
    def step(self) -> str:
        """How far a rotation is; empty when there is none."""
        return self._state.step

    @property
    def since(self) -> float:
        """When it got there, by the wall clock."""
        return self._state.since

    @property
    def authorities(self) -> list[tuple[str, bool, x509.Certificate]]:
        """The id of each that is trusted, whether it signs, and its certificate."""
        return [(name, name == self._state.active, self._certificate(name)) for name in self._state.trusted]

    def signer(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        """The one that signs.

        Raises:
            OSError, ValueError, TypeError: It cannot be read.
        """
        name = self._state.active
        key = serialization.load_pem_private_key((self._place(name) / "ca.key").read_bytes(), password=None)
        certificate = self._certificate(name)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ValueError(f"the key of the authority {name} is not its key")
        return key, certificate

    def bundle(self) -> bytes:
        """The certificates of all that are trusted."""
        return b"".join(pem(certificate) for _, _, certificate in self.authorities)

    def keeps(self, leaf: x509.Certificate) -> bool:
        """Whether a certificate may stay until it is due: one of a trusted authority that is not on its way out."""
        stays = {
            certificate.subject
            for _, signs, certificate in self.authorities
            if signs or self._state.step in {PUBLISHED, ACTIVATED}
        }
        return leaf.issuer in stays

    def is_due(self) -> bool:
        """Whether the one that signs is in the second half of its life."""
        certificate = self.signer()[1]
        born, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return datetime.now(UTC) >= born + (ends - born) / 2

    def begin(self) -> None:
        """Publish a new authority beside the present one; nothing when a rotation is under way."""
        if not self._state.step:
            new = self._make()
            self._write(_State(self._state.active, (self._state.active, new), PUBLISHED, time.time()))

    def next_step(self) -> str:
        """Take the next step of the rotation that is under way; answers where it is now, empty at its end."""
        state = self._state
        if state.step == PUBLISHED:
            self._write(replace(state, active=state.trusted[-1], step=ACTIVATED, since=time.time()))
        elif state.step == ACTIVATED:
            self._write(replace(state, step=TAINTED, since=time.time()))
        elif state.step == TAINTED:
            self._write(_State(state.active, (state.active,), "", time.time()))
        return self._state.step

    def forget_revoked(self) -> None:
        """Delete the keys of those that are trusted no more."""
        for place in self._directory.glob("authorities/*"):
            if place.name not in self._state.trusted:
                shutil.rmtree(place, ignore_errors=True)

    def _write(self, state: _State) -> None:
        write_private(self._file, orjson.dumps(asdict(state)))
        self._state = state

    def _place(self, name: str) -> Path:
        return self._directory / "authorities" / name

    def _certificate(self, name: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self._place(name) / "ca.crt").read_bytes())

    def _adopted(self) -> str | None:
        """The authority of a directory from before there could be several, when it is good for longer."""
        try:
            key = serialization.load_pem_private_key((self._directory / "ca.key").read_bytes(), password=None)
            certificate = x509.load_pem_x509_certificate((self._directory / "ca.crt").read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            return None
        if certificate.not_valid_after_utc <= datetime.now(UTC):
            return None
        name = self._keep(key, certificate)
        (self._directory / "ca.key").unlink()
        return name

    def _make(self) -> str:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        # The name is new each time: a client that trusts an earlier authority of the same name would report a bad
        # signature, not a stranger.
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Almagest local authority {secrets.token_hex(4)}")])
        public = key.public_key()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - backdated(self._lifetime))
            .not_valid_after(now + self._lifetime)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage(key_cert_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(key, hashes.SHA256())
        )
        return self._keep(key, certificate)

    def _keep(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> str:
        name = f"{certificate.serial_number:x}"[:16]
        place = self._place(name)
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(place / "ca.key", key_pem(key))
        write_private(place / "ca.crt", pem(certificate))
        return name


def backdated(lifetime: timedelta) -> timedelta:
    """How far back a certificate begins, for clocks that are late."""
    return max(timedelta(), min(_CLOCK_SKEW, lifetime / 10))


def usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    """What a key may be used for."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def pem(certificate: x509.Certificate) -> bytes:
    """A certificate as text."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A key as text, PKCS#8."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
