"""How this service's errors are answered: the one table."""

from collections.abc import Mapping, Sequence
from typing import Any

from chassis.errors import RETRY_AFTER_KEY, ErrorRow, ErrorTable
from grpc import StatusCode

from catalog_command.application.errors import CommandIdReused, OutcomeUnknown, RevisionConflict, TooContended
from catalog_command.domain import errors


def _place(error: errors.DomainError) -> Sequence[tuple[str, str]]:
    """Which command of the item was refused."""
    return () if error.command is None else ((f"commands[{error.command}]", str(error)),)


def _refused(code: StatusCode, reason: str) -> ErrorRow[Any]:
    return ErrorRow(code, reason, violations=_place)


def _time(error: errors.TimeOutOfRange) -> Sequence[tuple[str, str]]:
    """Which time of which command is wrong."""
    return ((f"commands[{error.command or 0}].{error.field}", error.what),)


def _retry(_: Exception) -> Mapping[str, str]:
    return {RETRY_AFTER_KEY: "1"}


def _revisions(error: RevisionConflict) -> Mapping[str, str]:
    return {"expected_revision": str(error.expected), "actual_revision": str(error.actual)}


def _violations(error: errors.InvalidCommand) -> Sequence[tuple[str, str]]:
    return error.violations


def error_table() -> ErrorTable:
    """The table."""
    return ErrorTable(
        {
            errors.InvalidCommand: ErrorRow(StatusCode.INVALID_ARGUMENT, "INVALID_COMMAND", violations=_violations),
            errors.ProductNotFound: _refused(StatusCode.NOT_FOUND, "PRODUCT_NOT_FOUND"),
            errors.ProductAlreadyExists: _refused(StatusCode.ALREADY_EXISTS, "PRODUCT_ALREADY_EXISTS"),
            errors.ProductDiscontinued: _refused(StatusCode.FAILED_PRECONDITION, "PRODUCT_DISCONTINUED"),
            errors.KindChanged: _refused(StatusCode.FAILED_PRECONDITION, "KIND_CHANGED"),
            errors.PriceMissing: _refused(StatusCode.FAILED_PRECONDITION, "PRICE_MISSING"),
            errors.TimeOutOfRange: ErrorRow(StatusCode.INVALID_ARGUMENT, "TIME_OUT_OF_RANGE", violations=_time),
            errors.ScheduleNotFound: _refused(StatusCode.NOT_FOUND, "SCHEDULE_NOT_FOUND"),
            errors.ScheduleEnded: _refused(StatusCode.FAILED_PRECONDITION, "SCHEDULE_ENDED"),
            errors.ScheduleIdReused: _refused(StatusCode.ALREADY_EXISTS, "SCHEDULE_ID_REUSED"),
            errors.ScheduleTimeTaken: _refused(StatusCode.ALREADY_EXISTS, "SCHEDULE_TIME_TAKEN"),
            errors.TooManySchedules: _refused(StatusCode.FAILED_PRECONDITION, "TOO_MANY_SCHEDULES"),
            errors.ScheduleNotDue: _refused(StatusCode.FAILED_PRECONDITION, "SCHEDULE_NOT_DUE"),
            errors.EarlierScheduleOpen: _refused(StatusCode.FAILED_PRECONDITION, "EARLIER_SCHEDULE_OPEN"),
            errors.RevisionNotFound: _refused(StatusCode.NOT_FOUND, "REVISION_NOT_FOUND"),
            RevisionConflict: ErrorRow(StatusCode.ABORTED, "REVISION_CONFLICT", metadata=_revisions),
            CommandIdReused: ErrorRow(StatusCode.INVALID_ARGUMENT, "COMMAND_ID_REUSED"),
            TooContended: ErrorRow(StatusCode.UNAVAILABLE, "TOO_CONTENDED", metadata=_retry),
            OutcomeUnknown: ErrorRow(StatusCode.UNAVAILABLE, "OUTCOME_UNKNOWN", metadata=_retry),
        }
    )
