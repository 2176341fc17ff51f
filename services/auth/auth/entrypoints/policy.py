"""Who may call what."""

from chassis.policy import Person, Policy, Rule

_GATEWAY = frozenset({"gateway"})
_EVERYONE = frozenset({"gateway", "catalog-command", "catalog-query", "event-store", "worker"})
_SERVICE = "/almagest.auth.v1.AuthService"

POLICY: Policy = {
    f"{_SERVICE}/CreateUser": Rule(callers=_GATEWAY, person=Person.REQUIRED, scopes=frozenset({"users:write"})),
    # Without users:read a person sees themselves; the use case knows.
    f"{_SERVICE}/GetUser": Rule(callers=_GATEWAY, person=Person.REQUIRED),
    f"{_SERVICE}/LogIn": Rule(callers=_GATEWAY, person=Person.NONE),
    f"{_SERVICE}/RefreshSession": Rule(callers=_GATEWAY, person=Person.NONE),
    f"{_SERVICE}/LogOut": Rule(callers=_GATEWAY, person=Person.NONE),
    f"{_SERVICE}/ExchangeToken": Rule(callers=_GATEWAY, person=Person.NONE),
    f"{_SERVICE}/DelegateToken": Rule(callers=frozenset({"worker"}), person=Person.NONE),
    f"{_SERVICE}/GetJwks": Rule(callers=_EVERYONE, person=Person.NONE),
    f"{_SERVICE}/WatchRevocations": Rule(callers=_EVERYONE, person=Person.NONE),
}
