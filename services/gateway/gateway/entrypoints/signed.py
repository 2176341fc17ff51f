"""Routes that take signed requests (RFC 9421): verified on the bytes as they came, before anything reads them.

The signature is looked at where the route takes over from the router, which is before FastAPI's own life of a request
begins: no parameter is parsed, no dependency is resolved, no body is read for a request whose signature is wrong.
"""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Final
from urllib.parse import quote

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.types import Message, Receive, Scope, Send

from gateway.application.nonces import NoncesAway
from gateway.application.ports import Person
from gateway.application.signatures import (
    Asked,
    SignatureExpired,
    SignatureInvalid,
    SignatureReplayed,
    Signatures,
    Verified,
)
from gateway.entrypoints.bodies import read_body
from gateway.middleware.quotas import charge_person
from gateway.problems import Refused, unauthenticated

SIGNER: Final = "almagest.signer"
"""Key of the scope: the `Signer` of a request whose signature was verified."""
METHOD: Final = "almagest.method"
"""Key of the scope: the method as it came, where it is served as another."""
_HEADERS = frozenset({b"signature", b"signature-input"})
_OTHER_WAYS = frozenset({b"authorization", b"dpop"})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Signer:
    """Whose key signed a request."""

    __slots__ = ("_signatures", "person", "verified")

    def __init__(self, signatures: Signatures, verified: Verified, person: Person) -> None:
        self._signatures = signatures
        self.verified = verified
        self.person = person

    async def anew(self) -> Person:
        """The person with a token that is good for a while yet, as long as the signature is."""
        return await self._signatures.person(self.verified)


class SignedRoute(APIRoute):
    """A route whose requests may be signed. The whole body is read and compared with its digest before it is served."""

    streams: ClassVar[bool] = False

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Verify, then serve."""
        if is_signed(scope):
            signer = await signer_of(scope)
            scope[SIGNER] = signer
            receive = checked(receive, signer.verified.digest)
            if not self.streams and scope["method"] not in _SAFE:
                request = Request(scope, receive)
                body = await read_body(request, limit=request.app.state.settings.maximum_body_bytes)
                receive = _again(body, receive)
        await super().handle(scope, receive, send)


class SignedUpload(SignedRoute):
    """A route whose bodies may be of any size: the digest is compared at the end of the body, which never comes if it
    is another one. Whoever reads the body must do nothing for good before its end.
    """

    streams = True


def is_signed(scope: Scope) -> bool:
    """Whether a request says that it is signed."""
    return any(name in _HEADERS for name, _ in scope["headers"])


async def signer_of(scope: Scope) -> Signer:
    """Whose key signed a request.

    Raises:
        Refused: nobody's, or not for this, or not now; or its person has asked too often.
        RemoteProblem: Auth does not vouch for the key.
    """
    signatures: Signatures = scope["app"].state.signatures
    signer = await verified_signer(signatures, scope)
    charge_person(signer.person.subject)
    return signer


async def verified_signer(signatures: Signatures, scope: Scope) -> Signer:
    """Whose key signed a request, in the eyes of these signatures. See `signer_of`."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    if any(name in _OTHER_WAYS for name, _ in headers):
        # Which of the two would count is a question that two readers of one request must not answer differently.
        raise unauthenticated(
            "A request is signed, or has an Authorization header or a DPoP proof, not both.", reason="SIGNATURE_INVALID"
        )
    path: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    asked = Asked(
        method=scope.get(METHOD) or scope["method"],
        scheme=scope["scheme"],
        raw_path=path.partition(b"?")[0],
        query=scope["query_string"],
        headers=headers,
    )
    try:
        verified = await signatures.verify(asked)
    except SignatureInvalid as error:
        raise unauthenticated(str(error), reason="SIGNATURE_INVALID") from None
    except SignatureExpired as error:
        raise unauthenticated(f"{error} Compare your clock with the Date header.", reason="SIGNATURE_EXPIRED") from None
    except SignatureReplayed:
        raise unauthenticated(
            "This signature was used before. Sign each request anew, also when it is sent again.",
            reason="SIGNATURE_REPLAYED",
        ) from None
    except NoncesAway:
        raise Refused(
            503,
            "NONCES_UNAVAILABLE",
            "Whether this request came before cannot be known at the moment. Sign it anew and send it again.",
            extra_headers={"Retry-After": "2"},
        ) from None
    return Signer(signatures, verified, await signatures.person(verified))


def checked(receive: Receive, digest: bytes | None) -> Receive:
    """The same body, without an end if it is not the one that was signed.

    Raises, when it is called:
        Refused: the body is another one.
    """
    hasher = hashlib.sha256()

    async def next_piece() -> Message:
        message = await receive()
        if message["type"] != "http.request":
            return message
        body = message.get("body", b"")
        if digest is None:
            if body:
                raise unauthenticated(
                    "The request has a body, so its signature must cover a Content-Digest.", reason="SIGNATURE_INVALID"
                )
            return message
        hasher.update(body)
        if not message.get("more_body", False) and hasher.digest() != digest:
            raise Refused(400, "DIGEST_MISMATCH", "The body is not the one that Content-Digest tells of.")
        return message

    return next_piece


def _again(body: bytes, receive: Callable[[], Awaitable[Any]]) -> Receive:
    """A body that has been read, to be read once more."""
    told = False

    async def next_piece() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_piece
