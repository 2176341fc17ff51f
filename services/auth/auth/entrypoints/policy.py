"""Who may call what."""

from chassis.policy import Person, Policy, Rule

_GATEWAY = frozenset({"gateway"})
_EVERYONE = frozenset({"gateway", "catalog-command", "catalog-query", "event-store", "worker"})
_SERVICE = "/almagest.auth.v1.AuthService"
_PEOPLE = "/almagest.auth.v1.PeopleService"
_AUDIT = "/almagest.auth.v1.AuditService"
_ACCESS_KEYS = "/almagest.auth.v1.AccessKeyService"
_PRIVACY = "/almagest.auth.v1.PrivacyService"

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
    f"{_PEOPLE}/BatchCreateUsers": Rule(callers=_GATEWAY, person=Person.REQUIRED, scopes=frozenset({"users:write"})),
    f"{_PEOPLE}/ListUsers": Rule(callers=_GATEWAY, person=Person.REQUIRED, scopes=frozenset({"users:read"})),
    # Without users:write a person changes their own names and password, and ends their own sessions.
    f"{_PEOPLE}/UpdateUser": Rule(callers=_GATEWAY, person=Person.REQUIRED),
    f"{_PEOPLE}/ChangePassword": Rule(callers=_GATEWAY, person=Person.REQUIRED),
    f"{_PEOPLE}/ListSessions": Rule(callers=_GATEWAY, person=Person.REQUIRED),
    f"{_PEOPLE}/EndSession": Rule(callers=_GATEWAY, person=Person.REQUIRED),
    f"{_AUDIT}/ListAuditEvents": Rule(callers=_GATEWAY, person=Person.REQUIRED, scopes=frozenset({"audit:read"})),
    f"{_AUDIT}/ReportDenials": Rule(callers=_EVERYONE, person=Person.NONE),
    # Whose keys, and with which scopes, the use cases know.
    f"{_ACCESS_KEYS}/CreateAccessKey": Rule(callers=_GATEWAY, person=Person.REQUIRED),
    f"{_ACCESS_KEYS}/GetAccessKey": Rule(callers=_GATEWAY, person=Person.REQUIRED),
    f"{_ACCESS_KEYS}/ListAccessKeys": Rule(callers=_GATEWAY, person=Person.REQUIRED),
    f"{_ACCESS_KEYS}/RotateAccessKey": Rule(callers=_GATEWAY, person=Person.REQUIRED),
    f"{_ACCESS_KEYS}/RevokeAccessKey": Rule(callers=_GATEWAY, person=Person.REQUIRED),
    f"{_ACCESS_KEYS}/GetVerificationKey": Rule(callers=_GATEWAY, person=Person.NONE),
    f"{_ACCESS_KEYS}/ExchangeAccessKey": Rule(callers=_GATEWAY, person=Person.NONE),
    # A person about themselves, and whoever manages people; the use cases know.
    f"{_PRIVACY}/ForgetPerson": Rule(callers=_GATEWAY, person=Person.REQUIRED),
    f"{_PRIVACY}/GetErasure": Rule(callers=_GATEWAY, person=Person.REQUIRED),
    f"{_PRIVACY}/RotateDataKeys": Rule(callers=frozenset({"operator"}), person=Person.NONE),
    "/almagest.auth.v1.PayloadKeyService/ListPayloadKeys": Rule(callers=_GATEWAY, person=Person.NONE),
}
