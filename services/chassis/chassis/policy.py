"""Who may call what: one table per service, keyed by RPC method, complete before the service starts.

A method that nobody thought about must not be open to everybody. So a method without a row keeps the service from
starting, and so does a row for a method that does not exist, which is most often a renamed one whose rule has silently
stopped to hold.
"""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from google.protobuf.descriptor import ServiceDescriptor

ANY_WORKLOAD = "*"
"""In `Rule.callers`: every workload of our trust domain. Only for what tells nothing, such as health."""


class Person(enum.Enum):
    """What a method asks about the person behind the call."""

    NONE = "none"
    """No person is needed; a token that comes along is not looked at."""
    REQUIRED = "required"
    """The metadata carry a valid transaction token with the rule's scopes."""
    PER_ITEM = "per item"
    """Each item of the request carries its own; the servicer verifies them."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may call a method: services of our trust domain, and on whose behalf."""

    callers: frozenset[str]
    person: Person = Person.REQUIRED
    scopes: frozenset[str] = frozenset()
    tokens_of: frozenset[str] = frozenset()
    """Services whose people's tokens the callers may pass on. A caller's own always count; any other token was taken
    from somebody.
    """


Policy = Mapping[str, Rule]
"""Rules by full method path, for example `/almagest.eventstore.v1.EventStoreService/Append`."""

HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"

CHASSIS_POLICY: Policy = {
    f"/{HEALTH}/Check": Rule(callers=frozenset({ANY_WORKLOAD}), person=Person.NONE),
    f"/{HEALTH}/List": Rule(callers=frozenset({ANY_WORKLOAD}), person=Person.NONE),
    f"/{HEALTH}/Watch": Rule(callers=frozenset({ANY_WORKLOAD}), person=Person.NONE),
    f"/{REFLECTION}/ServerReflectionInfo": Rule(callers=frozenset({"operator"}), person=Person.NONE),
}


class PolicyIncomplete(Exception):
    """The policy and the methods served differ."""

    def __init__(self, *, without_row: Iterable[str], without_method: Iterable[str]) -> None:
        self.without_row = tuple(sorted(without_row))
        self.without_method = tuple(sorted(without_method))
        parts: list[str] = []
        if self.without_row:
            parts.append(f"methods without a row: {', '.join(self.without_row)}")
        if self.without_method:
            parts.append(f"rows without a method: {', '.join(self.without_method)}")
        super().__init__("the policy is incomplete; " + "; ".join(parts))


def methods_of(descriptor: ServiceDescriptor) -> frozenset[str]:
    """The full paths of a service's methods."""
    return frozenset(f"/{descriptor.full_name}/{method.name}" for method in descriptor.methods)


def complete(policy: Policy, descriptors: Iterable[ServiceDescriptor]) -> None:
    """See that the policy has exactly one row for each method of the services.

    Raises:
        PolicyIncomplete: It has not; the error names the methods.
        ValueError: A row lets nobody call, which is never meant.
    """
    served = frozenset[str]().union(*(methods_of(descriptor) for descriptor in descriptors))
    rows = frozenset(policy)
    if served != rows:
        raise PolicyIncomplete(without_row=served - rows, without_method=rows - served)
    for method, rule in policy.items():
        if not rule.callers:
            raise ValueError(f"the policy of {method} lets nobody call")
        if rule.scopes and rule.person is Person.NONE:
            raise ValueError(f"the policy of {method} asks scopes of nobody")
        if ANY_WORKLOAD in rule.tokens_of:
            raise ValueError(f"the policy of {method} takes tokens that anybody has got hold of")
