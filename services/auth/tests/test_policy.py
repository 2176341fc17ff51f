"""Each cell of the table: which workload may call which method, over real mTLS."""

from typing import Any

import grpc
import pytest
from almagest.auth.v1 import auth_pb2 as wire
from auth.entrypoints.policy import POLICY
from chassis.errors import RemoteProblem

WORKLOADS = ("gateway", "auth", "catalog-command", "catalog-query", "event-store", "worker", "operator")
REQUESTS: dict[str, Any] = {
    "CreateUser": wire.CreateUserRequest(),
    "GetUser": wire.GetUserRequest(),
    "LogIn": wire.LogInRequest(),
    "RefreshSession": wire.RefreshSessionRequest(),
    "LogOut": wire.LogOutRequest(),
    "ExchangeToken": wire.ExchangeTokenRequest(),
    "DelegateToken": wire.DelegateTokenRequest(),
    "GetJwks": wire.GetJwksRequest(),
    "WatchRevocations": wire.WatchRevocationsRequest(),
}
SERVICES = {"gateway", "catalog-command", "catalog-query", "event-store", "worker"}
ALLOWED = {
    **{
        method: {"gateway"}
        for method in ("CreateUser", "GetUser", "LogIn", "RefreshSession", "LogOut", "ExchangeToken")
    },
    "DelegateToken": {"worker"},
    "GetJwks": SERVICES,
    "WatchRevocations": SERVICES,
}


def test_the_table_says_what_these_tests_expect():
    """Written down twice, so that a widened row has to be meant."""
    table = {method: set(rule.callers) for method, rule in POLICY.items()}
    service = "/almagest.auth.v1.AuthService/"
    assert {method.removeprefix(service): table[method] for method in table if method.startswith(service)} == ALLOWED


@pytest.mark.parametrize("method", sorted(REQUESTS))
@pytest.mark.parametrize("workload", WORKLOADS)
async def test_a_workload_calls_what_its_cell_allows(service, calling, workload: str, method: str):
    """Refused callers are told so, whatever their request; allowed ones are answered by the method itself."""
    async with calling(workload, service.port) as stub:
        try:
            call = getattr(stub, method)(REQUESTS[method])
            await (anext(aiter(call)) if method == "WatchRevocations" else call)
        except RemoteProblem as problem:
            code, reason = problem.code, problem.problem.reason
        else:
            code, reason = grpc.StatusCode.OK, ""
    if workload in ALLOWED[method]:
        assert not reason.startswith("CALLER_")
        assert code in {
            grpc.StatusCode.OK,
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.INVALID_ARGUMENT,
            # Revocations are told once they are all known, which on a busy machine may not be yet.
            grpc.StatusCode.UNAVAILABLE,
        }
    else:
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert reason.startswith("CALLER_")


@pytest.mark.parametrize("method", ["CreateUser", "GetUser"])
async def test_a_method_for_a_person_needs_a_transaction_token(
    service, newcomer, log_in, transaction_tokens, method: str
):
    """None, an access token in its place, and one signed by a stranger are refused."""
    tokens = await log_in(await newcomer())
    for metadata in ((), (("txn-token", tokens.access_token),), (("txn-token", transaction_tokens()),)):
        with pytest.raises(RemoteProblem) as failure:
            await getattr(service.gateway, method)(REQUESTS[method], metadata=metadata)
        assert failure.value.code is grpc.StatusCode.UNAUTHENTICATED


def test_the_other_services_of_auth_are_as_wide_as_is_meant():
    """People and the audit are the gateway's business; every service reports its refusals."""
    table = {method: set(rule.callers) for method, rule in POLICY.items()}
    people = {name: callers for name, callers in table.items() if ".PeopleService/" in name}
    assert len(people) == 6
    assert all(callers == {"gateway"} for callers in people.values())
    assert table["/almagest.auth.v1.AuditService/ListAuditEvents"] == {"gateway"}
    assert table["/almagest.auth.v1.AuditService/ReportDenials"] == SERVICES
    assert POLICY["/almagest.auth.v1.AuditService/ListAuditEvents"].scopes == {"audit:read"}
