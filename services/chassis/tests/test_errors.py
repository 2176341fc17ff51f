"""The table from exceptions to answers, and back."""

import grpc
import pytest
from chassis.errors import (
    ErrorRow,
    ErrorTable,
    InvalidRequest,
    PermissionDenied,
    RemoteProblem,
    Unavailable,
    problem_of,
    remote_problem,
    status_of,
)
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st


class Conflict(Exception):
    """Of the domain."""


class SpecialConflict(Conflict):
    """A kind of it."""


TABLE = ErrorTable({Conflict: ErrorRow[Conflict](code=grpc.StatusCode.ABORTED, reason="CONFLICT")})


def test_a_subclass_without_a_row_has_its_ancestors() -> None:
    """The nearest row counts."""
    problem = TABLE.problem(SpecialConflict("no"))
    assert (problem.code, problem.reason, problem.message) == (grpc.StatusCode.ABORTED.value[0], "CONFLICT", "no")


def test_the_unexpected_says_nothing_of_itself() -> None:
    """A fixed text; the same when a row itself fails."""
    broken = ErrorTable(
        {Conflict: ErrorRow[Conflict](code=grpc.StatusCode.ABORTED, reason="C", message=lambda _e: str(1 / 0))}
    )
    for problem in (TABLE.problem(ValueError("secret")), broken.problem(Conflict("secret"))):
        assert problem.code == grpc.StatusCode.INTERNAL.value[0]
        assert "secret" not in str(problem)


def test_what_every_service_can_say_needs_no_row() -> None:
    """The chassis's own errors, a timeout, and a dependency's problem."""
    assert TABLE.problem(PermissionDenied("No.", reason="X")).reason == "X"
    assert TABLE.problem(InvalidRequest([("a.b", "is wrong")])).violations[0].field == "a.b"
    assert TABLE.problem(TimeoutError()).code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    inner = TABLE.problem(Conflict("inner"))
    assert TABLE.problem(RemoteProblem(inner)) == inner
    ours = TABLE.problem(PermissionDenied(reason="CALLER_NOT_ALLOWED"))
    assert TABLE.problem(RemoteProblem(ours)).code == grpc.StatusCode.INTERNAL.value[0]


def test_ok_is_no_row() -> None:
    """An error cannot be answered with OK."""
    with pytest.raises(ValueError, match="Conflict"):
        ErrorTable({Conflict: ErrorRow[Conflict](code=grpc.StatusCode.OK, reason="X")})


_words = st.text(max_size=200)


@given(
    message=_words,
    violations=st.lists(st.tuples(_words, _words), max_size=5),
    retry_after=st.none() | st.floats(0, 1000),
)
def test_a_problem_survives_the_wire(
    message: str, violations: list[tuple[str, str]], retry_after: float | None
) -> None:
    """Problem to status and back is the same problem."""
    problem = TABLE.problem(Unavailable(message or "x", retry_after=retry_after, metadata={"k": message}))
    for field, description in violations:
        problem.violations.add(field=field, description=description)
    status = status_pb2.Status.FromString(status_of(problem).SerializeToString())
    assert problem_of(status)[0] == problem


@given(details=st.binary(max_size=200))
def test_garbage_in_place_of_a_status_is_a_plain_problem(details: bytes) -> None:
    """Whatever the other side sends, the caller gets a problem with the right code."""
    problem = remote_problem(grpc.StatusCode.ABORTED, service="event-store", details="10.0.0.1", status_details=details)
    assert problem.code is grpc.StatusCode.ABORTED
    assert "10.0.0.1" not in problem.problem.message
