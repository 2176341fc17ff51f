"""Imports: the file goes on to the worker while it comes, in pieces, and is never held here. Or the worker is told
where to fetch it.
"""

from collections.abc import AsyncIterator
from typing import Annotated
from urllib.parse import urlsplit

from almagest.jobs.v1 import jobs_pb2
from chassis.deadlines import set_deadline
from chassis.decompression import CompressionRefused, NotGzip, gunzip
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from gateway.application.ports import Person, Ports
from gateway.entrypoints.bodies import JsonBody, blocks, check_encoding, content_encoding, size_of, stream
from gateway.entrypoints.dependencies import REPLAYED, Asker, Backends, IdempotencyKey, json_response
from gateway.entrypoints.documentation import ASKED, IDEMPOTENCY, LOCATION, WITH_BODY, WRITE, problems, success
from gateway.entrypoints.signed import SignedUpload
from gateway.entrypoints.writes import a_write
from gateway.problems import Refused
from gateway.representations.jobs import FORMATS, Job, job
from gateway.requests.jobs import Import, ImportFrom

router = APIRouter(tags=["imports"], route_class=SignedUpload)
_BY_MEDIA_TYPE = {
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "text/csv": "csv",
}
_ANYTHING = frozenset(
    {"", "application/octet-stream", "text/plain", "application/x-www-form-urlencoded", "application/gzip"}
)
_JSON = "application/json"
_BY_ENDING = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}
_source: JsonBody[ImportFrom] = JsonBody(ImportFrom)
_FILE = {"type": "string", "format": "binary"}
_ROW = (
    '{"sku":"volvo-v60-2026","kind":"car","name":"Volvo V60","category":"vehicles/estate",'
    '"attributes":{"make":"Volvo","model":"V60","model_year":2026},"price":{"amount":"52900.00","currency":"EUR"}}\n'
)
_BODY = {
    "requestBody": {
        "required": True,
        "description": "The file, in UTF-8, plain or with `Content-Encoding: gzip`; or, in JSON, where to fetch it.",
        "content": {
            "application/x-ndjson": {"schema": {"type": "string"}, "example": _ROW},
            "text/csv": {
                "schema": {"type": "string"},
                "example": "sku,kind,name,make,model,model_year\nvolvo-v60-2026,car,Volvo V60,Volvo,V60,2026\n",
            },
            "application/json": {"schema": {"$ref": "#/components/schemas/ImportFrom"}},
        },
    }
}


@router.post(
    "/v1/imports",
    operation_id="importProducts",
    summary="Import a file of products",
    status_code=202,
    responses={
        202: success("The job, durable together with the file", Job, LOCATION, IDEMPOTENCY),
        **problems(*ASKED, *WITH_BODY, *WRITE),
    },
    openapi_extra=_BODY,
)
async def import_products(
    request: Request,
    person: Asker,
    options: Annotated[Import, Query()],
    ports: Backends,
    key: IdempotencyKey = None,
) -> Response:
    """Upload a file of products: NDJSON or CSV, one product per row, each created or changed to be as the row says.

    The answer comes when file and job are durable. Running the same file again changes nothing.
    """
    settings = request.app.state.settings
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == _JSON:
        return await _import_from(request, person, options, ports, key)
    encoding = content_encoding(request)
    if encoding != "gzip":
        check_encoding(request, taken="gzip")
    format_name = options.format or _BY_MEDIA_TYPE.get(media_type)
    if format_name is None or (media_type not in _BY_MEDIA_TYPE and media_type not in _ANYTHING):
        raise Refused(
            415,
            "UNSUPPORTED_MEDIA_TYPE",
            "A file is application/x-ndjson or text/csv; with the parameter format, application/octet-stream will do.",
        )
    # A large file may take longer than a request; one that stops coming may not.
    set_deadline(settings.upload_seconds)
    size = size_of(request)
    # The file itself is not part of the digest: it is not held, and the worker knows the job of the same command id.
    digest = f"{media_type} {encoding} {size}".encode()
    async with a_write(request, ports, person, key, body=digest) as command:
        header = _header(options, format_name, command.command_id)
        sent = stream(request.receive, idle_seconds=settings.upload_idle_seconds)
        if encoding == "gzip":
            # The worker counts what it gets, not what it is told: the limit here is only that of a bomb.
            sent = _unpacked(sent, settings.maximum_unpacked_bytes)
        elif size is not None:
            header.size_bytes = size
        message = await ports.worker.submit_import(header, blocks(sent), person)
    return _accepted(message, replayed=command.replayed)


async def _import_from(request: Request, person: Person, options: Import, ports: Ports, key: str | None) -> Response:
    """The job of a file that the worker fetches."""
    source = await _source(request)
    path = urlsplit(source.url).path.lower().removesuffix(".gz")
    format_name = options.format or next((name for ending, name in _BY_ENDING.items() if path.endswith(ending)), None)
    if format_name is None:
        raise Refused(
            422,
            "INVALID_BODY",
            "The URL does not say how the file is written: add the parameter format, csv or ndjson.",
            errors=[("url", "must end in .csv, .ndjson or .jsonl, or come with the parameter format")],
        )
    async with a_write(request, ports, person, key) as command:
        header = _header(options, format_name, command.command_id)
        header.source_url = source.url
        message = await ports.worker.submit_import(header, _nothing(), person)
    return _accepted(message, replayed=command.replayed)


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


def _header(options: Import, format_name: str, command_id: str) -> jobs_pb2.ImportHeader:
    return jobs_pb2.ImportHeader(
        options=jobs_pb2.ImportOptions(
            format=FORMATS[format_name],
            on_error=jobs_pb2.ON_ERROR_SKIP if options.on_error == "skip" else jobs_pb2.ON_ERROR_STOP,
            dry_run=options.dry_run,
            reason=options.reason or "",
        ),
        command_id=command_id,
        name=options.name or "",
    )


def _accepted(message: jobs_pb2.Job, *, replayed: bool) -> Response:
    headers = {"Location": f"/v1/jobs/{message.job_id}"} | ({REPLAYED: "true"} if replayed else {})
    return json_response(job(message), 202, headers)


async def _unpacked(sent: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    try:
        async for piece in gunzip(sent, limit=limit):
            yield piece
    except NotGzip as error:
        raise Refused(400, "BODY_NOT_GZIP", str(error)) from None
    except CompressionRefused as error:
        raise Refused(413, "BODY_TOO_LARGE", str(error)) from None
