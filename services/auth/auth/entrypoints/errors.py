"""How this service's errors are answered."""

import math

import grpc
from chassis.errors import ErrorRow, ErrorTable

from auth.domain import errors

_UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


def _scopes(error: errors.ScopesNotHeld) -> dict[str, str]:
    return {"scopes": " ".join(error.scopes)}


def _violations(error: errors.InvalidFields) -> tuple[tuple[str, str], ...]:
    return error.violations


def _soon(_: errors.TooManyLogins) -> dict[str, str]:
    return {"retry_after_seconds": "1"}


def _wait(error: errors.TooManyAttempts) -> dict[str, str]:
    return {"retry_after_seconds": f"{math.ceil(error.retry_after)}"}


ERRORS = ErrorTable(
    {
        errors.InvalidFields: ErrorRow(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS", violations=_violations),
        errors.EmailTaken: ErrorRow(grpc.StatusCode.ALREADY_EXISTS, "EMAIL_TAKEN"),
        errors.CommandReused: ErrorRow(grpc.StatusCode.FAILED_PRECONDITION, "COMMAND_REUSED"),
        errors.UnknownPerson: ErrorRow(grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND"),
        errors.RotationRunning: ErrorRow(grpc.StatusCode.FAILED_PRECONDITION, "ROTATION_RUNNING"),
        errors.UnknownErasure: ErrorRow(grpc.StatusCode.NOT_FOUND, "ERASURE_NOT_FOUND"),
        errors.NotAboutYou: ErrorRow(grpc.StatusCode.PERMISSION_DENIED, "NOT_ABOUT_YOU"),
        errors.InvalidCredentials: ErrorRow(_UNAUTHENTICATED, "INVALID_CREDENTIALS"),
        errors.InvalidRefreshToken: ErrorRow(_UNAUTHENTICATED, "INVALID_REFRESH_TOKEN"),
        errors.RefreshTokenReused: ErrorRow(_UNAUTHENTICATED, "REFRESH_TOKEN_REUSED"),
        errors.ProofNeeded: ErrorRow(_UNAUTHENTICATED, "DPOP_PROOF_NEEDED"),
        errors.SessionEnded: ErrorRow(_UNAUTHENTICATED, "SESSION_ENDED"),
        errors.InvalidAccessToken: ErrorRow(_UNAUTHENTICATED, "INVALID_ACCESS_TOKEN"),
        errors.AccessTokenExpired: ErrorRow(_UNAUTHENTICATED, "ACCESS_TOKEN_EXPIRED"),
        errors.ScopesNotHeld: ErrorRow(grpc.StatusCode.PERMISSION_DENIED, "SCOPES_NOT_HELD", metadata=_scopes),
        errors.UnknownAccessKey: ErrorRow(grpc.StatusCode.NOT_FOUND, "ACCESS_KEY_NOT_FOUND"),
        errors.AccessKeyEnded: ErrorRow(grpc.StatusCode.FAILED_PRECONDITION, "ACCESS_KEY_ENDED"),
        errors.AccessKeyNotValid: ErrorRow(_UNAUTHENTICATED, "ACCESS_KEY_NOT_VALID"),
        errors.AccessKeySignatureWrong: ErrorRow(_UNAUTHENTICATED, "SIGNATURE_INVALID"),
        errors.NotByKey: ErrorRow(grpc.StatusCode.PERMISSION_DENIED, "NOT_BY_ACCESS_KEY"),
        errors.TooManyAccessKeys: ErrorRow(grpc.StatusCode.FAILED_PRECONDITION, "TOO_MANY_ACCESS_KEYS"),
        errors.TooManyAttempts: ErrorRow(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_ATTEMPTS", metadata=_wait),
        errors.NotYourself: ErrorRow(grpc.StatusCode.FAILED_PRECONDITION, "NOT_YOURSELF"),
        errors.UnknownSession: ErrorRow(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"),
        errors.ChangedMeanwhile: ErrorRow(grpc.StatusCode.ABORTED, "CHANGED_MEANWHILE"),
        errors.TooManyLogins: ErrorRow(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_LOGINS", metadata=_soon),
    }
)
