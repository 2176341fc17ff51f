"""The checks of what people did at the door: each write once in the log, each document the fold of a prefix of the log,
fresh where a token asked for it, and the final read model the fold of the whole.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from chaos import findings, fold, history
from chaos.findings import Findings
from chaos.history import FAIL, OK, Record
from chaos.streams import Event, Streams


class Product:
    """A product by the log: its fields after each of its revisions, and where each amount was set."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.states: list[dict[str, Any]] = []
        self.amounts: dict[str, list[int]] = defaultdict(list)
        state: dict[str, Any] = {}
        for event in events:
            state = fold.folded(state, event.kind, event.payload, event.revision)
            self.states.append(state)
            amount = fold.price_of(event.kind, event.payload)
            if amount is not None:
                self.amounts[amount].append(event.revision)


def check_products(
    streams: Streams, operations: Iterable[Record], documents: Iterable[Record], found: Findings
) -> None:
    """Check one part of the products."""
    prefix = f"{history.PRODUCT}-"
    products = {
        stream.removeprefix(prefix): Product(events)
        for stream, events in streams.events.items()
        if stream.startswith(prefix)
    }
    writes: dict[str, list[Record]] = defaultdict(list)
    sessions: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for operation in operations:
        if operation["kind"] == "write":
            writes[operation["key"]].append(operation)
        if operation["outcome"] == OK:
            sessions[operation["client"], operation["product"]].append(operation)
    amounts: set[tuple[str, str]] = set()
    for attempts in writes.values():
        amounts.add((attempts[0]["product"], attempts[0]["amount"]))
        _check_write(attempts, products.get(attempts[0]["product"]), found)
    for identifier, product in products.items():
        for amount, revisions in product.amounts.items():
            known = (identifier, amount) in amounts
            found.expect(findings.ABSENT, known, f"product {identifier}: nobody set the price {amount}")
            found.expect(findings.ONCE, len(revisions) == 1, f"product {identifier}: {amount} set at {revisions}")
    for session in sessions.values():
        _check_session(session, products, found)
    _check_model(products, documents, found)


def _check_write(attempts: Sequence[Record], product: Product | None, found: Findings) -> None:
    first = attempts[0]
    name = f"write {first['key']} of {first['amount']} to product {first['product']}"
    there = [] if product is None else product.amounts.get(first["amount"], [])
    answers = [attempt["revision"] for attempt in attempts if attempt["outcome"] == OK]
    if not answers:
        if all(attempt["outcome"] == FAIL for attempt in attempts):
            found.expect(findings.ABSENT, not there, f"{name}: was refused, and is at {there}")
        else:
            found.expect(findings.UNKNOWN, len(there) <= 1, f"{name}: is at {there}")
        return
    found.expect(findings.SAME, len(set(answers)) == 1, f"{name}: answered {answers}")
    # A creation's own price is followed by its publication.
    right = [answers[0] - first["behind"]]
    found.expect(findings.ONCE, there == right, f"{name}: answered revision {answers[0]}, is at {there}")
    if first["expected"] is not None:
        found.expect(
            findings.ORDER,
            answers[0] == first["expected"] + 1,
            f"{name}: asked for at revision {first['expected']}, and made revision {answers[0]}",
        )


def _check_session(session: list[Record], products: dict[str, Product], found: Findings) -> None:
    """What one client saw of one product, in the order of its calls, one after the other."""
    session.sort(key=lambda operation: operation["invoked"])
    latest, latest_until = -1, 0.0
    for operation in session:
        identifier, revision = operation["product"], operation["revision"]
        name = f"{operation['client']}, product {identifier} at {operation['invoked']:.3f}"
        if operation["kind"] == "see":
            if revision >= 0:
                _check_seen(name, operation, products.get(identifier), found)
            if operation["at_least"] is not None:
                found.expect(
                    findings.FRESH,
                    revision >= operation["at_least"],
                    f"{name}: saw revision {revision} with the token of {operation['at_least']}",
                )
                found.expect(
                    findings.FRESH,
                    revision >= latest or operation["invoked"] < latest_until,
                    f"{name}: saw revision {revision} after {latest}",
                )
        if revision > latest:
            latest, latest_until = revision, operation["completed"]


def _check_seen(name: str, operation: Record, product: Product | None, found: Findings) -> None:
    revision = operation["revision"]
    states: list[dict[str, Any]] = [] if product is None else product.states
    if found.expect(
        findings.READS, revision < len(states), f"{name}: saw revision {revision}, which is not in the log"
    ):
        price: dict[str, str] | None = states[revision]["price"]
        amount = None if price is None else price["amount"]
        found.expect(
            findings.READS,
            amount == operation["amount"],
            f"{name}: saw {operation['amount']} at revision {revision}, which has {amount}",
        )


def _check_model(products: dict[str, Product], documents: Iterable[Record], found: Findings) -> None:
    seen: set[str] = set()
    for document in documents:
        identifier = document["product_id"]
        found.expect(findings.PROJECTION, identifier not in seen, f"product {identifier}: listed twice")
        seen.add(identifier)
        product = products.get(identifier)
        if (
            not found.expect(findings.PROJECTION, product is not None, f"product {identifier}: is in no log")
            or not product
        ):
            continue
        right = product.states[-1]
        wrong = [
            f"{field} is {document[field]!r}, not {right.get(field)!r}"
            for field in fold.FIELDS
            if document[field] != right.get(field)
        ]
        found.expect(findings.PROJECTION, not wrong, f"product {identifier}: {'; '.join(wrong)}")
    for identifier in products.keys() - seen:
        found.expect(findings.PROJECTION, False, f"product {identifier}: is not in the read model")
