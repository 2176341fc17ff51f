"""Proofs of keys that come with requests (DPoP, RFC 9449)."""

import time
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import quote

from chassis.dpop import ALGORITHMS, WINDOW_SECONDS, ProofInvalid, verified

from gateway.application.nonces import Nonces, NoncesAway
from gateway.problems import Refused

PURPOSE = "dpop"


async def proven(scope: MutableMapping[str, Any], nonces: Nonces, *, access_token: str | None) -> str | None:
    """The thumbprint of the key that a request proves to hold; None when it proves none.

    Raises:
        Refused: the proof is none, came before, or it cannot be known whether it did.
    """
    proofs = [value for name, value in scope["headers"] if name == b"dpop"]
    if not proofs:
        return None
    if len(proofs) > 1:
        raise _invalid("There is more than one DPoP header.")
    host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
    path: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    try:
        proof = verified(
            proofs[0].decode("latin-1"),
            method=scope.get("almagest.method") or scope["method"],
            url=f"{scope['scheme']}://{host}{path.partition(b'?')[0].decode('latin-1')}",
            access_token=access_token,
            now=time.time(),
        )
    except ProofInvalid as error:
        raise _invalid(str(error)) from None
    try:
        fresh = await nonces.claim(
            PURPOSE, f"{proof.thumbprint}:{proof.id}", seconds=2 * WINDOW_SECONDS + 1, since=proof.issued_at
        )
    except NoncesAway:
        raise Refused(
            503,
            "NONCES_UNAVAILABLE",
            "Whether this request came before cannot be known at the moment. Make another proof and send it again.",
            extra_headers={"Retry-After": "2"},
        ) from None
    if not fresh:
        raise _invalid("This proof was used before. Make one for each request, also when it is sent again.")
    return proof.thumbprint


def _invalid(message: str) -> Refused:
    challenge = f'DPoP algs="{" ".join(ALGORITHMS)}", error="invalid_dpop_proof"'
    return Refused(401, "DPOP_PROOF_INVALID", message, extra_headers={"WWW-Authenticate": challenge})
