"""Who may do what with the log."""

from typing import Final

from chassis.errors import PermissionDenied
from chassis.policy import Person, Policy, Rule
from chassis.searching.servicer import POLICY as SEARCHING

SERVICE: Final = "almagest.eventstore.v1.EventStoreService"
ADMINISTRATION: Final = "almagest.eventstore.v1.EventStoreAdministrationService"
WRITE: Final = "catalog:write"
AUDIT: Final = "audit"
"""The category of what auth has to say about the acts of people."""
AUDITOR: Final = "auth"

# Reading is between services: they read on their own account, for projections that serve everybody.
_READERS: Final = frozenset({"catalog-command", "catalog-query", "worker"})
# The tokens of those who ask catalog-command for something are shown here by it.
_ASKERS: Final = frozenset({"gateway", "worker"})
_OPERATORS: Final = frozenset({"operator"})
_FOLLOWERS: Final = frozenset({"catalog-query", "worker"})

POLICY: Final[Policy] = {
    # Auth on its own account, see `writes_to`.
    f"/{SERVICE}/Append": Rule(
        frozenset({"catalog-command", AUDITOR}), Person.PER_ITEM, frozenset({WRITE}), tokens_of=_ASKERS
    ),
    f"/{SERVICE}/GetAppend": Rule(_READERS, Person.NONE),
    f"/{SERVICE}/ReadStream": Rule(_READERS, Person.NONE),
    f"/{SERVICE}/BatchReadStreams": Rule(_READERS, Person.NONE),
    f"/{SERVICE}/ReadAll": Rule(_READERS, Person.NONE),
    f"/{SERVICE}/Subscribe": Rule(_FOLLOWERS, Person.NONE),
    f"/{SERVICE}/PutSnapshots": Rule(frozenset({"catalog-command", "catalog-query"}), Person.NONE),
    f"/{SERVICE}/SetStreamMetadata": Rule(frozenset({"catalog-command", "operator"}), Person.NONE, tokens_of=_ASKERS),
    f"/{SERVICE}/GetStreamMetadata": Rule(_READERS | {"operator"}, Person.NONE),
    f"/{SERVICE}/GetShardMap": Rule(_READERS | {"operator"}, Person.NONE),
    f"/{ADMINISTRATION}/Verify": Rule(_OPERATORS, Person.NONE),
    f"/{ADMINISTRATION}/MoveBuckets": Rule(_OPERATORS, Person.NONE),
    f"/{ADMINISTRATION}/CancelMove": Rule(_OPERATORS, Person.NONE),
    f"/{ADMINISTRATION}/ListMoves": Rule(_OPERATORS, Person.NONE),
    f"/{ADMINISTRATION}/ArchiveEvents": Rule(_OPERATORS, Person.NONE),
    f"/{ADMINISTRATION}/ListArchives": Rule(_OPERATORS, Person.NONE),
    **SEARCHING,
}


def writes_to(category: str, *, auditing: bool) -> None:
    """See that auth writes to the streams of its audit and to no others, and nobody else to them: neither those who
    change the catalog nor those who run the log can put words in, or end a stream.

    Raises:
        PermissionDenied: It is otherwise.
    """
    if auditing != (category == AUDIT):
        raise PermissionDenied(
            "The calling workload may not write to streams of this category.", reason="CATEGORY_NOT_ALLOWED"
        )
