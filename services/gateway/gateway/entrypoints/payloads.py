"""Encrypted payloads: the keys that clients encrypt to, and the routes with personal data, which take and give them."""

import base64
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, NoReturn

import orjson
from chassis.payloads import InvalidPayload, PublicKey, Suite, seal
from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.application.nonces import NoncesAway
from gateway.application.payloads import Opened, PayloadReplayed, Payloads, StalePayload, UnknownPayloadKey
from gateway.entrypoints.bodies import check_encoding, read_body
from gateway.entrypoints.documentation import problems, success
from gateway.entrypoints.signed import SignedRoute
from gateway.problems import Refused, bad_request

ENCRYPT_TO: Final = "Almagest-Encrypt-To"
KEYS_PATH: Final = "/v1/payload-keys"
MEDIA_TYPES: Final = tuple(suite.media_type for suite in Suite)
_LONGEST_KEY: Final = 4096
_KEYS_SECONDS: Final = 300

router = APIRouter(tags=["encryption"])
_KEYS_SCHEMA = {
    "type": "object",
    "required": ["keys"],
    "properties": {"keys": {"type": "array", "items": {"type": "object", "additionalProperties": {"type": "string"}}}},
}

_ENCRYPT_TO_PARAMETER = {
    "name": ENCRYPT_TO,
    "in": "header",
    "required": False,
    "description": (
        f"A public key of yours, a JWK in base64url, to encrypt the answer to: {' or '.join(MEDIA_TYPES)}, which Accept"
        f" must allow. The body may be of these types too, encrypted to a key of {KEYS_PATH}."
    ),
    "schema": {"type": "string", "maxLength": _LONGEST_KEY},
}


@router.get(
    KEYS_PATH,
    operation_id="listPayloadKeys",
    summary="Keys to encrypt to",
    responses={
        200: success("A JWK set, with one key per suite", _KEYS_SCHEMA, media_type="application/jwk-set+json"),
        **problems(429, 503),
    },
)
async def list_payload_keys(request: Request) -> Response:
    """The keys that bodies with personal data can be encrypted to (RFC 7517). They change now and then; a body that is
    encrypted to one that was published in the last day still opens.
    """
    payloads: Payloads = request.app.state.payloads
    jwks = await payloads.jwks()
    if not jwks:
        raise Refused(
            503, "PAYLOAD_KEYS_UNAVAILABLE", "The keys cannot be had at the moment.", extra_headers={"Retry-After": "1"}
        )
    headers = {"Cache-Control": f"public, max-age={_KEYS_SECONDS}"}
    return Response(jwks, 200, headers, media_type="application/jwk-set+json")


class PrivateRoute(SignedRoute):
    """A route whose bodies hold personal data: it takes them encrypted too, and answers so when it is given a key."""

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        responses: Mapping[int | str, dict[str, Any]] | None = None,
        openapi_extra: Mapping[str, Any] | None = None,
        **rest: Any,
    ) -> None:
        super().__init__(
            path,
            endpoint,
            responses={**problems(406, 409, 503), **(responses or {})},
            openapi_extra={**(openapi_extra or {}), "parameters": [_ENCRYPT_TO_PARAMETER]},
            **rest,
        )

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What serves a request."""
        serve = super().get_route_handler()

        async def private(request: Request) -> Response:
            payloads: Payloads = request.app.state.payloads
            required = request.app.state.settings.payload_encryption == "required"
            # Before anything is done: an answer that cannot be given must not follow an effect.
            recipient = _recipient(request, required=required)
            opened = await _opened(request, payloads, required=required)
            response = await serve(request if opened is None else _with_body(request, opened.plaintext))
            if recipient is None or not response.body:
                return response
            return _sealed(response, recipient, request, opened)

        return private


def _recipient(request: Request, *, required: bool) -> PublicKey | None:
    """The key that the answer is to be encrypted to."""
    accepted = [part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "*/*").split(",")]
    given = request.headers.get(ENCRYPT_TO)
    if given is None:
        if required or any(media_type in MEDIA_TYPES for media_type in accepted):
            raise bad_request(ENCRYPT_TO, "is missing: it is the key to encrypt the answer to, a JWK in base64url")
        return None
    try:
        jwk = orjson.loads(_base64url(given)) if len(given) <= _LONGEST_KEY else None
        key = PublicKey.of_jwk(jwk)
        seal(b"", key, {})
    except (ValueError, InvalidPayload) as error:
        reason = str(error) if isinstance(error, InvalidPayload) else "it is not a JWK in base64url"
        raise bad_request(ENCRYPT_TO, f"is no key to encrypt to: {reason}") from None
    if not {key.suite.media_type, "*/*", "application/*"} & set(accepted):
        raise Refused(
            406,
            "NOT_ACCEPTABLE",
            f"The answer would be {key.suite.media_type}, by the key in {ENCRYPT_TO}, and Accept does not allow that.",
        )
    return key


async def _opened(request: Request, payloads: Payloads, *, required: bool) -> Opened | None:
    """The message in the body, if the body is one."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    suite = Suite.of_media_type(media_type)
    if suite is None:
        if required and media_type:
            raise Refused(
                415,
                "PAYLOAD_ENCRYPTION_REQUIRED",
                f"This body must be encrypted: {' or '.join(MEDIA_TYPES)}, to a key of {KEYS_PATH}.",
            )
        return None
    check_encoding(request)
    # In base64 it may be a third larger than what it holds, and its header comes on top.
    limit = request.app.state.settings.maximum_body_bytes * 4 // 3 + 8192
    message = await read_body(request, limit=limit)
    target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    try:
        return await payloads.opened(message, suite, method=request.method, target=target)
    except (InvalidPayload, UnknownPayloadKey, StalePayload, PayloadReplayed, NoncesAway) as error:
        _refuse(error)


def _refuse(error: Exception) -> NoReturn:
    match error:
        case UnknownPayloadKey():
            why = f"The body is encrypted to a key that is not ours: see {KEYS_PATH}."
            raise Refused(400, "PAYLOAD_KEY_UNKNOWN", why) from None
        case StalePayload():
            why = "By its iat, the body is over five minutes old, or of the future: encrypt it anew, by a right clock."
            raise Refused(400, "PAYLOAD_STALE", why) from None
        case PayloadReplayed():
            why = "This encrypted body came before. To repeat a request, encrypt it anew; give it an Idempotency-Key."
            raise Refused(409, "PAYLOAD_REPLAYED", why) from None
        case NoncesAway():
            why = "It cannot be known at the moment whether this encrypted body came before."
            raise Refused(503, "NONCES_UNAVAILABLE", why, extra_headers={"Retry-After": "1"}) from None
        case _:
            raise Refused(400, "PAYLOAD_INVALID", f"The encrypted body cannot be taken: {error}.") from None


def _with_body(request: Request, body: bytes) -> Request:
    """The same request as if it had come in the clear."""
    headers = [
        (name, value)
        for name, value in request.scope["headers"]
        if name not in (b"content-type", b"content-length", b"transfer-encoding")
    ]
    headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    given = False

    async def receive() -> dict[str, Any]:
        nonlocal given
        if given:
            return dict(await request.receive())
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({**request.scope, "headers": headers}, receive)


def _sealed(response: Response, recipient: PublicKey, request: Request, opened: Opened | None) -> Response:
    """The answer, for the recipient alone. Which request it answers is told in its protected header."""
    header: dict[str, Any] = {
        "iat": int(time.time()),
        "htm": request.method,
        "htu": request.url.path,
        "status": response.status_code,
        "cty": response.headers.get("content-type", "application/json"),
    }
    if opened is not None:
        header["rid"] = opened.header["jti"]
    headers = {
        name: value for name, value in response.headers.items() if name not in ("content-type", "content-length")
    }
    headers["Vary"] = f"Accept, {ENCRYPT_TO}"
    message = seal(bytes(response.body), recipient, header)
    return Response(message, response.status_code, headers, media_type=recipient.suite.media_type)


def _base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
