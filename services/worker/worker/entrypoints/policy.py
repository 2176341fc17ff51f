"""Who may call what: the gateway, on behalf of a person."""

from almagest.jobs.v1 import jobs_pb2
from chassis.policy import Person, Policy, Rule
from chassis.searching.servicer import POLICY as SEARCHING

SERVICE: str = jobs_pb2.DESCRIPTOR.services_by_name["JobsService"].full_name
_GATEWAY = frozenset({"gateway"})


def _for(*scopes: str) -> Rule:
    return Rule(callers=_GATEWAY, person=Person.REQUIRED, scopes=frozenset(scopes))


POLICY: Policy = {
    **SEARCHING,
    f"/{SERVICE}/SubmitImport": _for("jobs:write", "catalog:write"),
    f"/{SERVICE}/GetJob": _for("jobs:read"),
    f"/{SERVICE}/ListJobs": _for("jobs:read"),
    f"/{SERVICE}/WatchJob": _for("jobs:read"),
    f"/{SERVICE}/CancelJob": _for("jobs:write"),
    f"/{SERVICE}/ListRefusedRows": _for("jobs:read"),
}
