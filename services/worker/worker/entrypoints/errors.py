"""How this service's errors are answered."""

from collections.abc import Mapping
from typing import Any

from chassis.errors import ErrorRow, ErrorTable
from grpc import StatusCode

from worker.domain import errors


def _job(error: Any) -> Mapping[str, str]:
    return {"job_id": error.job_id}


def error_table() -> ErrorTable:
    """The table."""
    return ErrorTable(
        {
            errors.JobNotFound: ErrorRow(StatusCode.NOT_FOUND, "JOB_NOT_FOUND", metadata=_job),
            errors.CommandIdReused: ErrorRow(StatusCode.INVALID_ARGUMENT, "COMMAND_ID_REUSED", metadata=_job),
            errors.FileEmpty: ErrorRow(StatusCode.INVALID_ARGUMENT, "FILE_EMPTY"),
            errors.FileTooLarge: ErrorRow(
                StatusCode.RESOURCE_EXHAUSTED,
                "FILE_TOO_LARGE",
                metadata=lambda error: {"maximum_bytes": str(error.maximum)},
            ),
            errors.SizeMismatch: ErrorRow(
                StatusCode.INVALID_ARGUMENT,
                "UPLOAD_SIZE_MISMATCH",
                metadata=lambda error: {"announced": str(error.announced), "received": str(error.received)},
            ),
            errors.UploadStalled: ErrorRow(StatusCode.DEADLINE_EXCEEDED, "UPLOAD_STALLED"),
            errors.SourceRefused: ErrorRow(StatusCode.INVALID_ARGUMENT, "SOURCE_REFUSED"),
            errors.UploadForgotten: ErrorRow(StatusCode.ABORTED, "UPLOAD_FORGOTTEN"),
        }
    )
