"""Imports, and other work in the background."""

from typing import Annotated

from pydantic import Field

from gateway import types
from gateway.requests.shapes import Body, Page, Query


class ImportFrom(Body):
    """Where a file is to be fetched from."""

    url: Annotated[
        str,
        Field(
            min_length=1,
            max_length=2000,
            description="By https, from a host that the operator allows; gzip is unpacked.",
            examples=["https://files.example.com/catalog/cars.csv.gz"],
        ),
    ]


class Import(Query):
    """How to import a file."""

    format: (
        Annotated[
            types.ImportFormat,
            Field(description="How the file is written; by default as Content-Type, or the end of the URL, says."),
        ]
        | None
    ) = None
    on_error: Annotated[
        types.OnError, Field(description="At the first refused row: end there, or report it and go on.")
    ] = "stop"
    dry_run: Annotated[bool, Field(description="Validate and decide everything, write nothing.")] = False
    reason: types.Reason | None = None
    name: (
        Annotated[str, Field(min_length=1, max_length=200, description="A name for people, for example the file's.")]
        | None
    ) = None


class ListJobs(Page):
    """Which jobs."""

    state: Annotated[list[types.JobState], Field(max_length=5, description="Any of these.")] = []


class ListRefused(Page):
    """Which refused rows."""

    page_size: Annotated[int, Field(ge=1, le=1000, description="How many at most.")] = 100
