"""Exact amounts. A float never comes near them: 0.1 + 0.2 is not what a customer owes."""

import re
from dataclasses import dataclass

from almagest.catalog.events.v1 import product_events_pb2 as events

from catalog_command.domain.currencies import MINOR_UNITS
from catalog_command.domain.errors import InvalidCommand

MAXIMUM_DIGITS = 18
"""All digits of an amount together: what NUMERIC(18) and an int64 of minor units both hold."""

_AMOUNT = re.compile(r"([0-9]+)(?:\.([0-9]+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Money:
    """An amount that is not negative, with exactly the decimals of its currency, and no needless zero in front."""

    amount: str
    currency: str

    def message(self) -> events.Money:
        """The same on the wire and in the log."""
        return events.Money(amount=self.amount, currency=self.currency)


def money(message: events.Money) -> Money:
    """The money that a message names. Missing decimals are filled up; too many are refused, never rounded.

    Raises:
        InvalidCommand: It names none; the fields are `amount` and `currency`.
    """
    decimals = MINOR_UNITS.get(message.currency)
    if decimals is None:
        raise InvalidCommand([("currency", "must be an active ISO 4217 code in capital letters, for example EUR")])
    match = _AMOUNT.fullmatch(message.amount)
    if match is None:
        raise InvalidCommand(
            [("amount", "must be a decimal that is not negative, without sign or exponent, for example 12999.00")]
        )
    whole, fraction = match[1].lstrip("0") or "0", match[2] or ""
    if len(fraction) > decimals:
        raise InvalidCommand([("amount", f"must have at most {decimals} decimals in {message.currency}")])
    if len(whole) + decimals > MAXIMUM_DIGITS:
        raise InvalidCommand([("amount", f"must have at most {MAXIMUM_DIGITS} digits, decimals included")])
    return Money(f"{whole}.{fraction.ljust(decimals, '0')}" if decimals else whole, message.currency)
