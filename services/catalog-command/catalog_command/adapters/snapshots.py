"""A product's folded state in the form in which the log keeps it for us, so that a long stream need not be folded anew.

The form is written out field by field and has its version in its name: a state of another version is not asked for, and
one that does not read is folded again from the events, which are the truth.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from catalog_command.domain.description import Kind
from catalog_command.domain.money import Money
from catalog_command.domain.product import Product, Status
from catalog_command.domain.schedule import Ending, Schedule

KIND: Final = "catalog-command.product.1"
"""Count it up when the meaning of `Product`, or the fold, changes."""


class SnapshotUnreadable(Exception):
    """The bytes are not a state of this version."""


def written(product: Product, consistency_token: str) -> bytes:
    """A product, and where its last event stands in the log."""
    corrected = product.corrected
    return json.dumps(
        {
            "consistency_token": consistency_token,
            "status": product.status.value,
            "sku": product.sku,
            "kind": product.kind.value,
            "description_digest": product.description_digest.hex(),
            "price": _money(product.price),
            "discontinued_because": product.discontinued_because,
            "created_at": _time(product.created_at),
            "price_since": _time(product.price_since),
            "status_since": _time(product.status_since),
            "schedules": [
                [
                    one.schedule_id,
                    _money(one.change) if isinstance(one.change, Money) else one.change,
                    _time(one.effective_at),
                ]
                for one in product.schedules
            ],
            "endings": [[schedule_id, ending.value] for schedule_id, ending in product.endings],
            "corrected": None
            if corrected is None
            else [_time(corrected[0]), _time(corrected[1]), _money(corrected[2])],
        },
        separators=(",", ":"),
    ).encode()


def read(payload: bytes) -> tuple[Product, str]:
    """The product and the token of a snapshot.

    Raises:
        SnapshotUnreadable: It is none that `written` made.
    """
    try:
        fields: Mapping[str, Any] = json.loads(payload)
        corrected = fields["corrected"]
        product = Product(
            status=Status(fields["status"]),
            sku=fields["sku"],
            kind=Kind(fields["kind"]),
            description_digest=bytes.fromhex(fields["description_digest"]),
            price=_as_money(fields["price"]),
            discontinued_because=fields["discontinued_because"],
            created_at=_as_time(fields["created_at"]),
            price_since=_as_time(fields["price_since"]),
            status_since=_as_time(fields["status_since"]),
            schedules=tuple(
                Schedule(schedule_id, _as_change(change), datetime.fromisoformat(at))
                for schedule_id, change, at in fields["schedules"]
            ),
            endings=tuple((schedule_id, Ending(ending)) for schedule_id, ending in fields["endings"]),
            corrected=None
            if corrected is None
            else (datetime.fromisoformat(corrected[0]), _as_time(corrected[1]), Money(*corrected[2])),
        )
        return product, fields["consistency_token"]
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise SnapshotUnreadable from error


def _money(money: Money | None) -> tuple[str, str] | None:
    return None if money is None else (money.amount, money.currency)


def _time(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _as_money(pair: Any) -> Money | None:
    return None if pair is None else Money(*pair)


def _as_change(change: Any) -> Money | bool:
    return change if isinstance(change, bool) else Money(*change)


def _as_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
