"""The versions of one product as the table has them, in memory: what its statements do, said once more, so that what is
stored can be compared with what the log makes of it.

How events were gathered into batches leaves traces in the rows that no answer depends on: rows that hold for no time,
ends that lie behind others, one stretch of time in two pieces. `told` is what is left without them.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple
from uuid import UUID

from catalog_query.domain.errors import ReadModelDiverged
from catalog_query.domain.rows import LatestVersion, ProductRow, Splice, VersionRow

FOREVER: Final = datetime.max.replace(tzinfo=UTC)


class Believed(NamedTuple):
    """What was believed of a product: at the times from `valid_from`, by who knew what was recorded from
    `recorded_from`, and before anything else was recorded for then and after, at `superseded_at`.
    """

    product: ProductRow
    valid_from: datetime
    valid_to: datetime
    recorded_from: datetime
    recorded_to: datetime
    superseded_at: datetime
    planned: bool


class MemoryVersions:
    """The table of versions, of a single product."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, datetime], Believed] = {}
        self.made_by = -1
        """The revision of the last event that made a row."""

    async def latest(self, product_ids: Sequence[UUID]) -> dict[UUID, LatestVersion]:
        """Nothing: the product is folded from its beginning."""
        del product_ids
        return {}

    async def write(
        self,
        connection: object,
        *,
        ends: Sequence[tuple[UUID, int, datetime, datetime]],
        rows: Sequence[VersionRow],
        splices: Sequence[Splice],
    ) -> None:
        """As the table does it."""
        del connection
        for _, made_by, valid_from, at in ends:
            key = (made_by, valid_from)
            self._rows[key] = self._rows[key]._replace(superseded_at=at)
        self._add(rows)
        for splice in splices:
            self._splice(splice)

    def _splice(self, splice: Splice) -> None:
        if splice.seen != self.made_by:
            raise ReadModelDiverged
        since = min(splice.since, splice.at)
        still = {
            key: row
            for key, row in self._rows.items()
            if row.recorded_to == FOREVER and min(row.valid_to, row.superseded_at) > since
        }
        for key, row in still.items():
            if splice.since >= splice.at:
                self._rows[key] = row._replace(superseded_at=splice.at)
                continue
            self._rows[key] = row._replace(recorded_to=splice.at)
            if row.valid_from < splice.since:
                self._rows[splice.made_by, row.valid_from] = row._replace(
                    valid_to=splice.since, recorded_from=splice.at, recorded_to=FOREVER, superseded_at=FOREVER
                )
                self.made_by = max(self.made_by, splice.made_by)
        self._add(splice.rows)

    def _add(self, rows: Sequence[VersionRow]) -> None:
        for row in rows:
            product = row.product
            if product.search is None and row.words_of is not None:
                product = product._replace(search=self._rows[row.words_of].product.search)
            self._rows[row.made_by, row.valid_from] = Believed(
                product=product,
                valid_from=row.valid_from,
                valid_to=row.valid_to or FOREVER,
                recorded_from=row.recorded_from,
                recorded_to=FOREVER,
                superseded_at=row.superseded_at or FOREVER,
                planned=row.planned,
            )
            self.made_by = max(self.made_by, row.made_by)

    def told(self) -> Sequence[Believed]:
        """What its answers depend on."""
        return told(self._rows.values())


def told(rows: Iterable[Believed]) -> Sequence[Believed]:
    """The rows that hold for some time, each as long as it does, in order."""
    kept = sorted(
        (
            row._replace(superseded_at=FOREVER) if row.superseded_at >= min(row.valid_to, row.recorded_to) else row
            for row in rows
            if row.valid_from < row.valid_to
            and row.recorded_from < row.recorded_to
            and min(row.valid_from, row.recorded_from) < row.superseded_at
        ),
        key=lambda row: (row.recorded_from, row.recorded_to, row.superseded_at, row.valid_from),
    )
    merged: list[Believed] = []
    for row in kept:
        before = merged[-1] if merged else None
        if before is not None and before._replace(valid_from=before.valid_to, valid_to=row.valid_to) == row:
            merged[-1] = before._replace(valid_to=row.valid_to)
        else:
            merged.append(row)
    return merged
