"""Imports: the file goes on to the worker while it comes, in pieces, and is never held here."""

from typing import Annotated

from almagest.jobs.v1 import jobs_pb2
from chassis.deadlines import set_deadline
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from gateway.entrypoints.bodies import blocks, check_encoding, size_of, stream
from gateway.entrypoints.dependencies import REPLAYED, Asker, Backends, IdempotencyKey, json_response
from gateway.entrypoints.documentation import ASKED, IDEMPOTENCY, LOCATION, WITH_BODY, WRITE, problems, success
from gateway.entrypoints.writes import a_write
from gateway.problems import Refused
from gateway.representations.jobs import FORMATS, Job, job
from gateway.requests import Import

router = APIRouter(tags=["imports"])
_BY_MEDIA_TYPE = {
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "text/csv": "csv",
}
_ANYTHING = frozenset(
    {"", "application/octet-stream", "text/plain", "application/json", "application/x-www-form-urlencoded"}
)
_FILE = {"type": "string", "format": "binary"}
_ROW = (
    '{"sku":"volvo-v60-2026","kind":"car","name":"Volvo V60","category":"vehicles/estate",'
    '"attributes":{"make":"Volvo","model":"V60","model_year":2026},"price":{"amount":"52900.00","currency":"EUR"}}\n'
)
_BODY = {
    "requestBody": {
        "required": True,
        "description": "The file, in UTF-8.",
        "content": {
            "application/x-ndjson": {"schema": {"type": "string"}, "example": _ROW},
            "text/csv": {
                "schema": {"type": "string"},
                "example": "sku,kind,name,make,model,model_year\nvolvo-v60-2026,car,Volvo V60,Volvo,V60,2026\n",
            },
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
    check_encoding(request)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
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
    digest = f"{media_type} {size}".encode()
    async with a_write(request, ports, person, key, body=digest) as command:
        header = jobs_pb2.ImportHeader(
            options=jobs_pb2.ImportOptions(
                format=FORMATS[format_name],
                on_error=jobs_pb2.ON_ERROR_SKIP if options.on_error == "skip" else jobs_pb2.ON_ERROR_STOP,
                dry_run=options.dry_run,
                reason=options.reason or "",
            ),
            command_id=command.command_id,
            name=options.name or "",
            size_bytes=size,
        )
        chunks = blocks(stream(request.receive, idle_seconds=settings.upload_idle_seconds))
        message = await ports.worker.submit_import(header, chunks, person)
    headers = {"Location": f"/v1/jobs/{message.job_id}"} | ({REPLAYED: "true"} if command.replayed else {})
    return json_response(job(message), 202, headers)
