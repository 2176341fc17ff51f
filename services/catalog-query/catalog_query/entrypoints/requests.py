"""From the wire to a question, every wrong field named at once."""

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Final
from uuid import UUID

from almagest.catalog.v1 import query_pb2
from chassis.errors import InvalidRequest

from catalog_query.application import cursors
from catalog_query.application.freshness import Wanted
from catalog_query.application.shards import Shards
from catalog_query.domain import words
from catalog_query.domain.errors import BadPageToken
from catalog_query.domain.query import KINDS, STATUSES, VEHICLES, Filter, Query, Sort
from catalog_query.entrypoints.tokens import BadConsistencyToken, wanted

MAXIMUM_PAGE: Final = 200
_DEFAULT_PAGE: Final = 50
_LONGEST_TEXT: Final = 200
_MOST_CONSISTENCY_TOKENS: Final = 32
_MOST_CHOICES: Final = 10
_LAST_YEAR: Final = 9999
_CURRENCY: Final = re.compile(r"[A-Z]{3}")
_AMOUNT: Final = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")

_SORTS: Final[Mapping[int, tuple[Sort, bool]]] = {
    query_pb2.PRODUCT_SORT_NAME: (Sort.NAME, False),
    query_pb2.PRODUCT_SORT_NAME_DESCENDING: (Sort.NAME, True),
    query_pb2.PRODUCT_SORT_PRICE: (Sort.PRICE, False),
    query_pb2.PRODUCT_SORT_PRICE_DESCENDING: (Sort.PRICE, True),
    query_pb2.PRODUCT_SORT_MODEL_YEAR: (Sort.MODEL_YEAR, False),
    query_pb2.PRODUCT_SORT_MODEL_YEAR_DESCENDING: (Sort.MODEL_YEAR, True),
    query_pb2.PRODUCT_SORT_UPDATED_DESCENDING: (Sort.UPDATED, True),
}


class _Violations(list[tuple[str, str]]):
    """Wrong fields, as they are found."""

    def add(self, field: str, description: str) -> None:
        self.append((field, description))

    def check(self) -> None:
        if self:
            raise InvalidRequest(self)


def product_id(text: str) -> UUID:
    """A product id.

    Raises:
        InvalidRequest: it is none.
    """
    return identifier("product_id", text)


def identifier(field: str, text: str) -> UUID:
    """A UUID in the form that we write them.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        parsed = UUID(text)
    except ValueError:
        parsed = None
    if parsed is None or str(parsed) != text.lower():
        raise InvalidRequest([(field, "must be a UUID, for example 6f0f5f3e-6c1b-5d53-9a0b-0a2f6f6c9d11")])
    return parsed


def consistency(text: str, shards: Shards) -> Sequence[Wanted]:
    """What a read has to wait for, if anything.

    Raises:
        InvalidRequest: the token is none of ours.
    """
    try:
        return wanted(text, shards) if text else ()
    except BadConsistencyToken as error:
        raise InvalidRequest([("consistency_token", str(error))]) from None


def consistencies(texts: Sequence[str], shards: Shards) -> Sequence[Wanted]:
    """What a page has to wait for.

    Raises:
        InvalidRequest: a token is none of ours, or there are too many.
    """
    if len(texts) > _MOST_CONSISTENCY_TOKENS:
        raise InvalidRequest([("consistency_tokens", f"must be at most {_MOST_CONSISTENCY_TOKENS}")])
    found: list[Wanted] = []
    violations = _Violations()
    for index, text in enumerate(texts):
        try:
            found.extend(wanted(text, shards))
        except BadConsistencyToken as error:
            violations.add(f"consistency_tokens[{index}]", str(error))
    violations.check()
    return found


def list_query(request: query_pb2.ListProductsRequest) -> tuple[Query, bytes]:
    """A page of a list, and the question that its page tokens are for.

    Raises:
        InvalidRequest: fields are wrong.
        BadPageToken: the page token is for another question.
    """
    return _query(
        request.filter, request.sort, request.page_size, request.page_token, text=None, unspecified=(Sort.NAME, False)
    )


def search_query(request: query_pb2.SearchProductsRequest) -> tuple[Query, bytes]:
    """A page of a search, and the question that its page tokens are for.

    Raises:
        InvalidRequest: fields are wrong.
        BadPageToken: the page token is for another question.
    """
    return _query(
        request.filter,
        request.sort,
        request.page_size,
        request.page_token,
        text=request.text,
        unspecified=(Sort.RELEVANCE, True),
    )


def history_page(request: query_pb2.GetProductHistoryRequest) -> tuple[UUID, int, int | None, bytes]:
    """The product, the size of the page, the revision to begin at (None: the last), and the question that its page
    tokens are for.

    Raises:
        InvalidRequest: fields are wrong.
        BadPageToken: the page token is for another question.
    """
    wanted_id = product_id(request.product_id)
    violations = _Violations()
    size = _page_size(request.page_size, violations)
    violations.check()
    asked = query_pb2.GetProductHistoryRequest(
        recorded_from=request.recorded_from if request.HasField("recorded_from") else None,
        recorded_to=request.recorded_to if request.HasField("recorded_to") else None,
    )
    question = b"history " + wanted_id.bytes + asked.SerializeToString(deterministic=True)
    if not request.page_token:
        return wanted_id, size, None, question
    match cursors.decode(request.page_token, question=question):
        case [int(revision)] if revision >= 0:
            return wanted_id, size, revision, question
        case _:
            raise BadPageToken


def _query(
    wire: query_pb2.ProductFilter,
    sort: int,
    page_size: int,
    page_token: str,
    *,
    text: str | None,
    unspecified: tuple[Sort, bool],
) -> tuple[Query, bytes]:
    violations = _Violations()
    size = _page_size(page_size, violations)
    order, descending = _SORTS.get(sort, unspecified)
    if sort not in _SORTS and sort != query_pb2.PRODUCT_SORT_UNSPECIFIED:
        violations.add("sort", "is not a known order")
    kept = _filter(wire, violations)
    if order is Sort.PRICE and not wire.currency:
        violations.add(
            "filter.currency", "must be set to sort by price, since amounts of different currencies have no order"
        )
    search = None if text is None else _words(text, violations)
    violations.check()
    question = repr((sort, text)).encode() + wire.SerializeToString(deterministic=True)
    after = cursors.to_key(page_token, sort=order, question=question) if page_token else None
    return Query(kept, order, descending, size, after, search), question


def _page_size(size: int, violations: _Violations) -> int:
    if size > MAXIMUM_PAGE:
        violations.add("page_size", f"must be at most {MAXIMUM_PAGE}")
    return size or _DEFAULT_PAGE


def _words(text: str, violations: _Violations) -> str:
    if not 1 <= len(text) <= _LONGEST_TEXT:
        violations.add("text", f"must have 1 to {_LONGEST_TEXT} characters")
        return ""
    found = words.query(text)
    if not found:
        violations.add("text", "must have a letter or a digit")
    return found


def _filter(wire: query_pb2.ProductFilter, violations: _Violations) -> Filter:
    for field in ("make", "model", "category", "sku"):
        _plain(f"filter.{field}", getattr(wire, field), violations)
    if wire.category != wire.category.strip("/"):
        violations.add("filter.category", "must not begin or end with a slash")
    if wire.currency and not _CURRENCY.fullmatch(wire.currency):
        violations.add("filter.currency", "must be three capital letters, for example EUR")
    year_from = _year("model_year_from", wire, violations)
    year_to = _year("model_year_to", wire, violations)
    if year_from is not None and year_to is not None and year_from > year_to:
        violations.add("filter.model_year_to", "must not be below model_year_from")
    price_from = _amount("price_from", wire, violations)
    price_to = _amount("price_to", wire, violations)
    if price_from is not None and price_to is not None and price_from > price_to:
        violations.add("filter.price_to", "must not be below price_from")
    return Filter(
        kinds=_kinds(wire.kinds, violations),
        make=wire.make or None,
        model=wire.model or None,
        model_year_from=year_from,
        model_year_to=year_to,
        category=wire.category or None,
        currency=wire.currency or None,
        price_from=price_from,
        price_to=price_to,
        statuses=_choices("filter.statuses", wire.statuses, STATUSES, violations),
        sku=wire.sku or None,
    )


def _kinds(wire: Iterable[str], violations: _Violations) -> frozenset[str] | None:
    chosen = _choices("filter.kinds", wire, KINDS | {"vehicle"}, violations)
    if chosen is not None and "vehicle" in chosen:
        chosen = chosen - {"vehicle"} | VEHICLES
    return None if chosen == KINDS else chosen


def _choices(field: str, wire: Iterable[str], known: frozenset[str], violations: _Violations) -> frozenset[str] | None:
    given = list(wire)
    if len(given) > _MOST_CHOICES:
        violations.add(field, f"must be at most {_MOST_CHOICES}")
        return None
    for index, value in enumerate(given):
        if value not in known:
            violations.add(f"{field}[{index}]", f"must be one of {', '.join(sorted(known))}")
    return frozenset(given) or None


def _plain(field: str, text: str, violations: _Violations) -> None:
    if len(text) > _LONGEST_TEXT:
        violations.add(field, f"must have at most {_LONGEST_TEXT} characters")
    if _CONTROL.search(text):
        violations.add(field, "must not have control characters")


def _year(field: str, wire: query_pb2.ProductFilter, violations: _Violations) -> int | None:
    if not wire.HasField(field):  # pyright: ignore[reportArgumentType] - the two names that we give
        return None
    year: int = getattr(wire, field)
    if year > _LAST_YEAR:
        violations.add(f"filter.{field}", f"must be at most {_LAST_YEAR}")
    return year


def _amount(field: str, wire: query_pb2.ProductFilter, violations: _Violations) -> Decimal | None:
    text: str = getattr(wire, field)
    if not text:
        return None
    if not wire.currency:
        violations.add("filter.currency", f"must be set together with {field}")
    if not _AMOUNT.fullmatch(text):
        violations.add(f"filter.{field}", "must be a decimal without sign and exponent, for example 12999.00")
        return None
    return Decimal(text)
