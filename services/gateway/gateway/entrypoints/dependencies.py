"""What operations ask of a request besides its body: who asks, and the headers that all of them understand."""

import base64
import re
import uuid
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from almagest.eventstore.v1 import event_pb2
from fastapi import Depends, Header, Path, Request, Security
from fastapi.security import HTTPBearer
from pydantic import BeforeValidator
from starlette.responses import Response

from gateway import types
from gateway.application.nonces import Nonces
from gateway.application.people import InvalidAccessToken, People
from gateway.application.ports import Person, Ports
from gateway.encoding import encode
from gateway.entrypoints.proofs import proven
from gateway.entrypoints.signed import SIGNER, Signer, is_signed
from gateway.middleware.quotas import charge_person
from gateway.problems import Refused, bad_request, unauthenticated

PRODUCT_NAMESPACE: Final = uuid.UUID("6f0f5f3e-6c1b-5d53-9a0b-0a2f6f6c9d11")
"""Product ids are UUIDv5 of the SKU in this namespace."""
CONSISTENCY: Final = "Almagest-Consistency"
REPLAYED: Final = "Idempotency-Replayed"
MAXIMUM_TOKENS = 16
BOUND_TO: Final = "almagest.bound_to"
"""Where a request's scope says which key it has proven to hold."""
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_SKU = re.compile(r"[A-Za-z0-9._/-]{1,64}")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,200}")
# A token of the first shard map is as good as one of a later one: what a shard has written stays there.
_FIRST_EPOCH = 1
_LARGEST_REVISION = (1 << 63) - 1

bearer = HTTPBearer(
    scheme_name="bearer",
    bearerFormat="JWT",
    description="The `access_token` of a session.",
    auto_error=False,
)


async def person(request: Request, _documented: Annotated[Any, Security(bearer)] = None) -> Person:
    """Who asks."""
    signer: Signer | None = request.scope.get(SIGNER)
    if signer is not None:
        return signer.person
    if is_signed(request.scope):
        # Not verified, so there is no such route; nor is it to be taken for one that is not signed.
        raise unauthenticated("Requests to this are not signed.", reason="SIGNATURE_INVALID")
    state = request.app.state
    return await person_of(state.people, state.ports.nonces, request.scope, request.headers.get("authorization"))


async def person_of(
    people: People, nonces: Nonces, scope: MutableMapping[str, Any], authorization: str | None
) -> Person:
    """The person whose access token an Authorization header carries, by itself or with a proof of its key.

    Raises:
        Refused: It carries none that could be one, or the person has asked too often.
        RemoteProblem: Auth does not vouch for it.
    """
    if not authorization:
        raise unauthenticated("This needs an access token: Authorization: Bearer <access token>.")
    scheme, _, token = authorization.partition(" ")
    token, bound_to = token.strip(), None
    if scheme.lower() == "dpop":
        bound_to = await proven(scope, nonces, access_token=token)
        if bound_to is None:
            raise unauthenticated("A token of the scheme DPoP needs a proof.", reason="DPOP_PROOF_NEEDED")
        scope[BOUND_TO] = bound_to
    elif scheme.lower() != "bearer":
        raise unauthenticated("The Authorization header is of neither of the schemes Bearer and DPoP.")
    try:
        person = await people.person(token, bound_to=bound_to or "")
    except InvalidAccessToken:
        raise unauthenticated("This is no access token.", reason="INVALID_TOKEN", invalid_token=True) from None
    charge_person(person.subject)
    return person


def ports_of(request: Request) -> Ports:
    """The ports of the application."""
    ports: Ports = request.app.state.ports
    return ports


Reference = Annotated[types.ProductReference, Path(), BeforeValidator(lambda text: text.replace("%2F", "/"))]
"""A product in a path. A slash in a SKU comes as its escape, which the frame of the request has kept."""
Asker = Annotated[Person, Depends(person)]
Backends = Annotated[Ports, Depends(ports_of)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern="^[!-~]{1,200}$",
        description=(
            "Makes a repeat safe: the same key with the same request gets the original answer, for ever. "
            "The answer to a request that changed nothing is kept for a day, unless the memory of keys is lost: then "
            "its repeat is decided anew."
        ),
        examples=["order-4711"],
    ),
]
IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        pattern=r'^\s*(\*|"[0-9]{1,19}")\s*$',
        description="The entity tag that was read: if the product has another by now, nothing changes (412). `*`: any.",
        examples=['"3"'],
    ),
]
IfNoneMatch = Annotated[
    str | None,
    Header(
        alias="If-None-Match",
        max_length=1000,
        description="Known entity tags: 304 if one is current.",
        examples=['"3"'],
    ),
]
Consistency = Annotated[
    str | None,
    Header(
        alias=CONSISTENCY,
        max_length=4000,
        description=(
            "Tokens that writes answered, separated by commas: the read waits until they are visible, or answers 503 "
            "with Retry-After."
        ),
    ),
]


def expected_revision(if_match: str | None) -> int | None:
    """The revision that an If-Match header asks for; None when any will do."""
    if if_match is None or (value := if_match.strip()) == "*":
        return None
    revision = int(value.strip('"'))
    if revision > _LARGEST_REVISION:
        raise bad_request("If-Match", "is no entity tag of ours")
    return revision


def matches(if_none_match: str | None, etag: str) -> bool:
    """Whether one of the entity tags of an If-None-Match header is this one, weakly compared (RFC 9110, 13.1.2)."""
    if not if_none_match:
        return False
    return any(
        candidate == "*" or candidate.removeprefix("W/") == etag
        for candidate in (part.strip() for part in if_none_match.split(","))
    )


def tokens_of(header: str | None) -> list[str]:
    """The consistency tokens of a header.

    Raises:
        Refused: One of them is none, or there are too many.
    """
    if not header:
        return []
    tokens = list(dict.fromkeys(part.strip() for part in header.split(",") if part.strip()))
    if len(tokens) > MAXIMUM_TOKENS:
        raise bad_request(CONSISTENCY, f"has more than {MAXIMUM_TOKENS} tokens")
    if any(_TOKEN.fullmatch(token) is None for token in tokens):
        raise bad_request(CONSISTENCY, "has what is no consistency token")
    return tokens


def positions_header(positions: Sequence[event_pb2.ShardPosition]) -> dict[str, str]:
    """The position that a page is at least as new as, as tokens for later reads: one per shard of the log."""
    tokens = [
        event_pb2.ConsistencyToken(
            epoch=_FIRST_EPOCH, shard=position.shard, position=position.position, every_bucket=True
        )
        for position in positions
    ]
    if not tokens:
        return {}
    return {
        CONSISTENCY: ", ".join(
            base64.urlsafe_b64encode(token.SerializeToString()).rstrip(b"=").decode() for token in tokens
        )
    }


def product_id_of(reference: str) -> str:
    """The id of the product that a path or a body refers to.

    Raises:
        Refused: It refers to none.
    """
    if reference.startswith("sku:"):
        sku = reference[4:].replace("%2F", "/")
        if _SKU.fullmatch(sku) is not None:
            return product_id_of_sku(sku)
    elif _UUID.fullmatch(reference) is not None:
        return reference.lower()
    raise bad_request("product_id", "must be a UUID, or `sku:` and a SKU")


def product_id_of_sku(sku: str) -> str:
    """The id of the product with a SKU."""
    return str(uuid.uuid5(PRODUCT_NAMESPACE, sku))


def uuid_of(field_name: str, value: str) -> str:
    """A UUID in its usual form.

    Raises:
        Refused: It is none.
    """
    if _UUID.fullmatch(value) is None:
        raise bad_request(field_name, "must be a UUID")
    return value.lower()


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer in JSON, of a value or of bytes that are JSON already."""
    body = value if isinstance(value, bytes) else encode(value)
    return Response(body, status, headers, media_type="application/json")


def next_link(request: Request, cursor: str) -> dict[str, str]:
    """The Link header (RFC 8288) of a page that another follows."""
    if not cursor:
        return {}
    query = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
    return {"Link": f'<{request.url.path}?{urlencode([*query, ("cursor", cursor)])}>; rel="next"'}


def key_used_otherwise() -> Refused:
    """The answer to an idempotency key that came with another request before."""
    return Refused(422, "IDEMPOTENCY_KEY_REUSED", "This Idempotency-Key was used with another request.")


def still_running() -> Refused:
    """The answer to a repeat that came too soon."""
    return Refused(
        409,
        "REQUEST_IN_PROGRESS",
        "The same request is being worked on; ask again for its answer.",
        extra_headers={"Retry-After": "1"},
    )
