"""Requests signed with an access key (RFC 9421), in place of a session. See docs/signing.md."""

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from almagest_cli.local.daemons import write_private
from almagest_cli.output import CommandError, Exit

BOUND = ("content-digest", "content-type", "content-encoding", "idempotency-key", "if-match", "almagest-encrypt-to")
"""Headers that change what a request does: signed if they are there."""
_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Key:
    """An access key, with what it signs with: the secret, or the private key."""

    key_id: str
    kind: str
    material: bytes = field(repr=False)

    @classmethod
    def of(cls, answer: Mapping[str, Any], private_key: str | None = None) -> "Key":
        """From what the gateway answers when it issues a key, or with a private key of one's own.

        Raises:
            ValueError: it does not say what to sign with.
        """
        pem = private_key or answer.get("private_key")
        if answer["kind"] == "ed25519":
            try:
                private = load_pem_private_key(str(pem).encode(), None)
            except (TypeError, UnsupportedAlgorithm) as error:
                raise ValueError("the private key cannot be read") from error
            if not isinstance(private, Ed25519PrivateKey):
                raise ValueError("the private key is not one of Ed25519")
            return cls(str(answer["key_id"]), "ed25519", private.private_bytes_raw())
        return cls(str(answer["key_id"]), "hmac-sha256", base64.b64decode(str(answer["secret"]), validate=True))

    @classmethod
    def read(cls, path: Path) -> "Key":
        """From a file that `almagest keys create` wrote.

        Raises:
            CommandError: there is none.
        """
        try:
            return cls.of(orjson.loads(path.read_bytes()))
        except OSError as error:
            raise CommandError(f"Cannot read the key file {path}: {error.strerror}.", code=Exit.USAGE) from None
        except (ValueError, KeyError, TypeError):
            raise CommandError(f"{path} is no key file.", code=Exit.USAGE, hint="Run `almagest keys create`.") from None

    def sign(self, base: bytes) -> bytes:
        """The signature of a signature base."""
        if self.kind == "ed25519":
            return Ed25519PrivateKey.from_private_bytes(self.material).sign(base)
        return hmac.digest(self.material, base, "sha256")


def write_key(path: Path, answer: Mapping[str, Any]) -> None:
    """Keep a key for later commands, in a file that only we can read."""
    names = ("key_id", "kind", "secret", "private_key")
    write_private(path, orjson.dumps({name: answer[name] for name in names if answer.get(name)}) + b"\n")


def digest_header(digest: bytes) -> str:
    """Content-Digest (RFC 9530) of a body with this SHA-256 digest."""
    return f"sha-256=:{base64.b64encode(digest).decode()}:"


def signature_headers(key: Key, method: str, url: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Signature-Input and Signature of a request, good for a minute and once.

    Args:
        key: what to sign with.
        method: such as GET.
        url: absolute, encoded, without a fragment.
        headers: those of the request by lower-case name, with Content-Digest if it has a body.
    """
    values = {"@method": method, "@target-uri": url} | {name: headers[name] for name in BOUND if name in headers}
    now = int(time.time())
    components = " ".join(f'"{name}"' for name in values)
    params = (
        f"({components});created={now};expires={now + _SECONDS}"
        f';nonce="{secrets.token_urlsafe(16)}";keyid="{key.key_id}";alg="{key.kind}";tag="almagest"'
    )
    lines = [f'"{name}": {value}' for name, value in values.items()]
    base = "\n".join([*lines, f'"@signature-params": {params}'])
    signature = base64.b64encode(key.sign(base.encode())).decode()
    return {"Signature-Input": f"sig1={params}", "Signature": f"sig1=:{signature}:"}


class SignedAuth(httpx.Auth):
    """Signs each request of an httpx client. Bodies are held in memory, unless they come with a Content-Digest."""

    def __init__(self, key: Key) -> None:
        self._key = key

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sign, then send."""
        if "content-digest" not in request.headers:
            body = request.read()
            if body:
                request.headers["Content-Digest"] = digest_header(hashlib.sha256(body).digest())
        request.headers.update(signature_headers(self._key, request.method, str(request.url), dict(request.headers)))
        yield request
