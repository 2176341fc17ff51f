"""Who may call what."""

from typing import Final

from chassis.policy import Person, Policy, Rule
from chassis.searching.servicer import POLICY as SEARCHING

READ: Final = "catalog:read"
WRITE: Final = "catalog:write"
SERVICE_NAME: Final = "almagest.catalog.v1.CatalogQueryService"
SCHEDULES_NAME: Final = "almagest.catalog.v1.CatalogScheduleService"
CHANGES_NAME: Final = "almagest.catalog.v1.CatalogChangesService"
PROJECTIONS_NAME: Final = "almagest.catalog.v1.CatalogProjectionService"
OPERATE: Final = "projections:write"
LOOK: Final = "projections:read"
PAST_NAME: Final = "almagest.catalog.v1.CatalogPastService"

_readers = frozenset({"gateway", "worker"})


def _method(name: str) -> str:
    return f"/{SERVICE_NAME}/{name}"


POLICY: Policy = {
    **SEARCHING,
    _method("GetProduct"): Rule(callers=_readers, scopes=frozenset({READ})),
    # Each item is somebody's own question: it carries its own token.
    _method("BatchGetProducts"): Rule(callers=_readers, person=Person.PER_ITEM),
    _method("ListProducts"): Rule(callers=_readers, scopes=frozenset({READ})),
    _method("SearchProducts"): Rule(callers=_readers, scopes=frozenset({READ})),
    _method("GetProductHistory"): Rule(callers=frozenset({"gateway"}), scopes=frozenset({READ})),
    # Tells positions, nothing of anybody's: an operator asks without a person, and the gateway asks the scope of its
    # own callers.
    _method("GetProjectionStatus"): Rule(callers=frozenset({"gateway", "operator"}), person=Person.NONE),
    f"/{CHANGES_NAME}/SubscribeChanges": Rule(callers=_readers, scopes=frozenset({READ})),
    # A moment in the future needs more, see `application/past.py`.
    **{
        f"/{PAST_NAME}/{name}": Rule(callers=frozenset({"gateway"}), scopes=frozenset({READ}))
        for name in ("GetProductAsOf", "ListProductsAsOf", "SearchProductsAsOf", "DiffProduct", "ExplainField")
    },
    # What is planned is not for everybody's eyes: who may plan may see.
    f"/{SCHEDULES_NAME}/ListSchedules": Rule(callers=frozenset({"gateway"}), scopes=frozenset({WRITE})),
    # The worker asks for nobody. Each schedule is carried out with a token of who planned it.
    f"/{SCHEDULES_NAME}/ListDueSchedules": Rule(callers=frozenset({"worker"}), person=Person.NONE),
    f"/{SCHEDULES_NAME}/ReportRefusals": Rule(callers=frozenset({"worker"}), person=Person.NONE),
    **{
        f"/{PROJECTIONS_NAME}/{name}": Rule(callers=frozenset({"gateway"}), scopes=frozenset({scope}))
        for scope, names in {
            LOOK: ("ListProjections", "ListParkedEvents", "ListDifferences", "ListDrift"),
            OPERATE: (
                "RetryParkedEvents",
                "SkipParkedEvent",
                "Rebuild",
                "Compare",
                "SwitchGeneration",
                "DropGeneration",
                "RepairProduct",
            ),
        }.items()
        for name in names
    },
}
