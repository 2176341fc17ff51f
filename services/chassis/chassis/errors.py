"""Errors on their way to the wire and back: one table per service.

The table gives both forms of the same answer: the gRPC status of a failed call, with `google.rpc` details, and the
`almagest.rpc.v1.Problem` of one failed item of a batched call. What the table does not name is unexpected: it answers
INTERNAL with a fixed text, and what really happened goes to the log under the trace id of the call. On the other side
of the wire both forms become a `RemoteProblem`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
import structlog
from almagest.rpc.v1 import problem_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

E_contra = TypeVar("E_contra", bound=Exception, contravariant=True)

ERROR_DOMAIN = "almagest"
STATUS_DETAILS_KEY = "grpc-status-details-bin"
RETRY_AFTER_KEY = "retry_after_seconds"
UNEXPECTED_REASON = "INTERNAL"
UNEXPECTED_MESSAGE = (
    "The service failed in an unexpected way. The trace id of the request leads to the cause in its log."
)

# Trailing metadata are limited (16 KiB by default, for all of them together), and a status that does not fit arrives as
# an unrelated error.
_MAXIMUM_TEXT = 1_000
_MAXIMUM_VIOLATIONS = 100
_MAXIMUM_STATUS_BYTES = 6_000

_logger = structlog.stdlib.get_logger(__name__)
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class ChassisError(Exception):
    """An error that every service can have, known to every table."""

    code: grpc.StatusCode = grpc.StatusCode.INTERNAL
    default_reason: str = UNEXPECTED_REASON
    default_message: str = UNEXPECTED_MESSAGE

    def __init__(
        self,
        message: str | None = None,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.message = message or self.default_message
        self.reason = reason or self.default_reason
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        if retry_after is not None:
            self.metadata[RETRY_AFTER_KEY] = f"{retry_after:g}"
        super().__init__(self.message)

    @property
    def violations(self) -> Sequence[tuple[str, str]]:
        """The wrong fields and what is wrong with each."""
        return ()


class Unauthenticated(ChassisError):
    """It is not proven who calls, or on whose behalf."""

    code = grpc.StatusCode.UNAUTHENTICATED
    default_reason = "UNAUTHENTICATED"
    default_message = "It is not proven who calls."


class PermissionDenied(ChassisError):
    """It is known who calls, and they may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED
    default_reason = "PERMISSION_DENIED"
    default_message = "This is not allowed."


class InvalidRequest(ChassisError):
    """The request itself is wrong, whatever the state of the system: (field, what is wrong with it) for each wrong
    field.
    """

    code = grpc.StatusCode.INVALID_ARGUMENT
    default_reason = "INVALID_REQUEST"
    default_message = "The request is not valid."

    def __init__(
        self, violations: Sequence[tuple[str, str]] = (), message: str | None = None, *, reason: str | None = None
    ) -> None:
        self._violations = tuple(violations)
        if message is None and self._violations:
            field, description = self._violations[0]
            message = f"{field}: {description}" if field else description
        super().__init__(message, reason=reason)

    @property
    def violations(self) -> Sequence[tuple[str, str]]:
        """The wrong fields and what is wrong with each."""
        return self._violations


class ResourceExhausted(ChassisError):
    """There is more to do than can be done; nothing of this was begun."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_reason = "RESOURCE_EXHAUSTED"
    default_message = "The service has too much to do. Nothing was begun; try again later."


class DeadlineExceeded(ChassisError):
    """The time for the call is over. Whether it took effect is not known."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    default_reason = "DEADLINE_EXCEEDED"
    default_message = "The time for this call is over."


class Unavailable(ChassisError):
    """Something that is needed cannot be reached at the moment. `retry_after`: seconds after which it is worth another
    try.
    """

    code = grpc.StatusCode.UNAVAILABLE
    default_reason = "UNAVAILABLE"
    default_message = "The service cannot do this at the moment; try again later."

    def __init__(
        self,
        message: str | None = None,
        *,
        retry_after: float | None = 1.0,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata, retry_after=retry_after)


class RemoteProblem(Exception):
    """A call, or an item of one, that another service answered with a problem.

    `detail` is what the transport said, for logs only; `retry_after` the seconds that the other side asked to wait.
    """

    def __init__(self, problem: problem_pb2.Problem, *, retry_after: float | None = None, detail: str = "") -> None:
        super().__init__(f"{problem.reason}: {problem.message}")
        self.problem = problem
        self.detail = detail
        self.retry_after = retry_after
        if retry_after is None and RETRY_AFTER_KEY in problem.metadata:
            try:
                self.retry_after = float(problem.metadata[RETRY_AFTER_KEY])
            except ValueError:
                self.retry_after = None

    @property
    def code(self) -> grpc.StatusCode:
        """The gRPC status."""
        return _CODES.get(self.problem.code, grpc.StatusCode.UNKNOWN)

    @property
    def reason(self) -> str:
        """The stable name of the problem."""
        return self.problem.reason


class ConnectionRenewed(RemoteProblem):
    """A stream that was ended on our own side, since the certificate of its connection is about to expire."""


def is_planned(error: BaseException) -> bool:
    """Whether a call ended as calls do in daily work, and is to be made again: its connection is renewed, or the other
    side is about to leave.
    """
    return isinstance(error, ConnectionRenewed) or (
        isinstance(error, RemoteProblem) and error.reason in {"CALLER_EXPIRED", "DRAINING"}
    )


def is_away(error: BaseException) -> bool:
    """Whether somebody else, a service or a database, cannot be reached at the moment."""
    return isinstance(error, Unavailable) or (
        isinstance(error, RemoteProblem) and error.code is grpc.StatusCode.UNAVAILABLE
    )


@dataclass(frozen=True)
class ErrorRow(Generic[E_contra]):
    """How one class of exceptions, and its subclasses without a row of their own, are answered.

    `message` is `str` of the exception unless given: the domain's errors speak to people.
    """

    code: grpc.StatusCode
    reason: str
    message: Callable[[E_contra], str] | None = None
    metadata: Callable[[E_contra], Mapping[str, str]] | None = None
    violations: Callable[[E_contra], Sequence[tuple[str, str]]] | None = None


class ErrorTable:
    """The one table of a service from exceptions to answers."""

    def __init__(self, rows: Mapping[type[Exception], ErrorRow[Any]]) -> None:
        for error, row in rows.items():
            if row.code is grpc.StatusCode.OK:
                raise ValueError(f"the row of {error.__name__} answers OK")
        self._rows = dict(rows)

    @property
    def rows(self) -> Mapping[type[Exception], ErrorRow[Any]]:
        """The rows, for those who describe them."""
        return self._rows

    def _row(self, error: Exception) -> ErrorRow[Any] | None:
        for ancestor in type(error).__mro__:
            row = self._rows.get(ancestor)
            if row is not None:
                return row
        return None

    def problem(self, error: Exception) -> problem_pb2.Problem:
        """The answer to an exception. One that no row expects is logged here, and answered without a word of its
        text.
        """
        row = self._row(error)
        try:
            if row is not None:
                return _problem(
                    row.code,
                    row.reason,
                    row.message(error) if row.message else str(error),
                    row.metadata(error) if row.metadata else {},
                    row.violations(error) if row.violations else (),
                )
            if isinstance(error, ChassisError):
                return _problem(error.code, error.reason, error.message, error.metadata, error.violations)
            if isinstance(error, RemoteProblem):
                return _passed_on(error)
            if isinstance(error, TimeoutError):
                late = DeadlineExceeded()
                return _problem(late.code, late.reason, late.message, {}, ())
        except Exception:
            _logger.exception("an error row failed", row=row.reason if row else None)
        _logger.error("unexpected error", exc_info=error)
        return _problem(grpc.StatusCode.INTERNAL, UNEXPECTED_REASON, UNEXPECTED_MESSAGE, {}, ())

    def status(self, error: Exception) -> status_pb2.Status:
        """The rich gRPC status of an exception, with `google.rpc` details."""
        return status_of(self.problem(error))


def _passed_on(error: RemoteProblem) -> problem_pb2.Problem:
    """What a dependency said to us, as we say it to our caller.

    Its answers come from its own table, so their words are fit for people. That it would not have *us* is our
    misconfiguration, and no business of the caller's.
    """
    if error.problem.reason.startswith("CALLER_"):
        _logger.error("refused by a dependency", problem_reason=error.problem.reason, detail=error.detail)
        return _problem(grpc.StatusCode.INTERNAL, UNEXPECTED_REASON, UNEXPECTED_MESSAGE, {}, ())
    return error.problem


def _shortened(text: str) -> str:
    return text if len(text) <= _MAXIMUM_TEXT else text[: _MAXIMUM_TEXT - 1] + "…"


def _problem(
    code: grpc.StatusCode,
    reason: str,
    message: str,
    metadata: Mapping[str, str],
    violations: Sequence[tuple[str, str]],
) -> problem_pb2.Problem:
    return problem_pb2.Problem(
        code=code.value[0],
        reason=reason,
        message=_shortened(message),
        metadata={key: _shortened(str(value)) for key, value in metadata.items()},
        violations=[
            problem_pb2.FieldViolation(field=_shortened(field), description=_shortened(description))
            for field, description in violations[:_MAXIMUM_VIOLATIONS]
        ],
    )


def _packed(message: Any) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def status_of(problem: problem_pb2.Problem) -> status_pb2.Status:
    """A problem as `google.rpc.Status`. Violations that would not fit into the trailing metadata are left out, the last
    first.
    """
    status = status_pb2.Status(code=problem.code, message=problem.message)
    info = error_details_pb2.ErrorInfo(reason=problem.reason, domain=ERROR_DOMAIN, metadata=problem.metadata)
    status.details.append(_packed(info))
    if RETRY_AFTER_KEY in problem.metadata:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(float(problem.metadata[RETRY_AFTER_KEY]) * 1e9))
        status.details.append(_packed(retry))
    room = _MAXIMUM_STATUS_BYTES - status.ByteSize()
    bad = error_details_pb2.BadRequest()
    for violation in problem.violations:
        fitting = bad.field_violations.add(field=violation.field, description=violation.description)
        if bad.ByteSize() > room:
            bad.field_violations.remove(fitting)
            break
    if bad.field_violations:
        status.details.append(_packed(bad))
    return status


def problem_of(status: status_pb2.Status) -> tuple[problem_pb2.Problem, float | None]:
    """A problem from `google.rpc.Status`, and the seconds to wait before another try if it says so."""
    problem = problem_pb2.Problem(code=status.code, message=status.message)
    retry_after: float | None = None
    for detail in status.details:
        if detail.TypeName() == "google.rpc.ErrorInfo":
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            problem.reason = info.reason
            problem.metadata.update(info.metadata)
        elif detail.TypeName() == "google.rpc.BadRequest":
            bad = error_details_pb2.BadRequest()
            detail.Unpack(bad)
            for violation in bad.field_violations:
                problem.violations.add(field=violation.field, description=violation.description)
        elif detail.TypeName() == "google.rpc.RetryInfo":
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    return problem, retry_after


_TRANSPORT_MESSAGES: dict[grpc.StatusCode, str] = {
    grpc.StatusCode.UNAVAILABLE: "{service} cannot be reached at the moment; try again later.",
    grpc.StatusCode.DEADLINE_EXCEEDED: "{service} did not answer in time.",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "{service} has too much to do, or the message is too large.",
    grpc.StatusCode.CANCELLED: "The call to {service} was cancelled.",
    grpc.StatusCode.UNIMPLEMENTED: "{service} does not know this method.",
}


def remote_problem(
    code: grpc.StatusCode, *, service: str, details: str | None, status_details: bytes | None
) -> RemoteProblem:
    """The problem of a failed call: what the other side's table said, or, when the transport failed, a text of our own.

    The transport's own words name addresses; they are kept in `RemoteProblem.detail` for the log.
    """
    if status_details:
        try:
            problem, retry_after = problem_of(status_pb2.Status.FromString(status_details))
        except DecodeError:
            pass
        else:
            if problem.code == code.value[0] and problem.reason:
                return RemoteProblem(problem, retry_after=retry_after, detail=details or "")
    message = _TRANSPORT_MESSAGES.get(code, "The call to {service} failed.").format(service=service)
    problem = problem_pb2.Problem(code=code.value[0], reason=code.name, message=message)
    return RemoteProblem(problem, detail=details or "")
