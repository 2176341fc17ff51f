"""Access keys."""

from typing import Annotated

from pydantic import Field

from gateway import types
from gateway.requests.shapes import Body, Query


class NewKey(Body):
    """An access key to be."""

    name: Annotated[str, Field(min_length=1, max_length=100, description="For people.", examples=["till 4"])]
    kind: types.AccessKeyKind
    scopes: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=50)]],
        Field(max_length=20, description="What it may do; left out: all that you may.", examples=[["catalog:read"]]),
    ] = []
    public_key: Annotated[
        str | None,
        Field(
            min_length=40,
            max_length=1000,
            description="Of an `ed25519` pair of your own: PEM, or 32 bytes in base64; left out: a pair is made.",
        ),
    ] = None
    expires_at: Annotated[types.Time | None, Field(description="When it ends; left out: in 90 days.")] = None
    user_id: Annotated[types.Uuid | None, Field(description="Whose; left out: yours. Others': for admins.")] = None


class RotateKey(Body):
    """The key that follows another."""

    old_until: Annotated[
        types.Time | None, Field(description="Until when the old one stays good; left out: it ends at once.")
    ] = None
    expires_at: Annotated[types.Time | None, Field(description="When the new one ends; left out: in 90 days.")] = None
    public_key: Annotated[
        str | None,
        Field(min_length=40, max_length=1000, description="As of a new key."),
    ] = None


class ListKeys(Query):
    """Whose keys."""

    user_id: Annotated[types.Uuid | None, Field(description="Left out: yours. Others': for admins.")] = None
