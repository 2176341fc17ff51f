"""What this process knows of products: their folded states, most recently used last.

An entry may be behind the log, never ahead of it and never wrong about the past. So a decision that appends needs no
further look, since the revision check of the append corrects it; a refusal, or a finding that nothing is to be done,
does need one.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from catalog_command.application.product_log import NO_REVISION, History, Written
from catalog_command.domain.product import Product, fold, initial

REMEMBERED_APPENDS = 8
"""How many of a product's last appends are remembered. An older one has to be asked for."""


@dataclass(frozen=True, slots=True)
class KnownProduct:
    """A product at a revision.

    Attributes:
        consistency_token: where its last event stands in the log; empty while there is none.
        appends: its last appends, oldest first.
        all_appends: whether these are all that there ever were up to the revision.
    """

    product: Product
    revision: int
    consistency_token: str
    appends: tuple[Written, ...]
    all_appends: bool

    def append_of(self, append_id: str) -> Written | None:
        """The answer to an append, if it is remembered."""
        for append in self.appends:
            if append.append_id == append_id:
                return append
        return None

    def followed_by(self, history: History) -> "KnownProduct":
        """The product after what the log has told."""
        if history.base is not None:
            kept = KnownProduct(history.base, history.last_revision, history.consistency_token, (), all_appends=False)
            return kept.followed_by(replace(history, base=None))
        if not history.events:
            return self
        product = fold(self.product, history.events)
        return self._after(product, history.appends, history.last_revision, history.consistency_token)

    def written(self, product: Product, append: Written) -> "KnownProduct":
        """The product after an append of our own, which made it what it is now."""
        return self._after(product, (append,), append.last_revision, append.consistency_token)

    def _after(
        self, product: Product, appends: Sequence[Written], revision: int, consistency_token: str
    ) -> "KnownProduct":
        together = (*self.appends, *appends)
        return KnownProduct(
            product=product,
            revision=revision,
            consistency_token=consistency_token,
            appends=together[-REMEMBERED_APPENDS:],
            all_appends=self.all_appends and len(together) <= REMEMBERED_APPENDS,
        )


UNKNOWN = KnownProduct(initial, NO_REVISION, "", (), all_appends=True)
"""Before anything is known, which is the same as a product of which nothing is written."""


class KnownProducts:
    """A bounded memory of products; the one that was not used for longest is forgotten first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._products: OrderedDict[str, KnownProduct] = OrderedDict()

    def __len__(self) -> int:
        return len(self._products)

    def get(self, product_id: str) -> KnownProduct | None:
        """What is known of a product."""
        known = self._products.get(product_id)
        if known is not None:
            self._products.move_to_end(product_id)
        return known

    def put(self, product_id: str, known: KnownProduct) -> None:
        """Remember a product, unless something newer is remembered."""
        before = self._products.get(product_id)
        if known.revision < 0 or (before is not None and before.revision > known.revision):
            return
        self._products[product_id] = known
        self._products.move_to_end(product_id)
        if len(self._products) > self._capacity:
            self._products.popitem(last=False)

    def forget(self, product_id: str) -> None:
        """Forget a product."""
        self._products.pop(product_id, None)
