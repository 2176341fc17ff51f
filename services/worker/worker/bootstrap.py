"""The composition root."""

import os
import socket
import ssl
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import structlog
from almagest.jobs.v1 import jobs_pb2_grpc
from chassis.database.pool import Database
from chassis.ids import uuid7
from chassis.outbound import Outbound, OutboundPolicy, OutboundRefused
from chassis.process import Assembly, Chassis
from chassis.redis import connect
from chassis.searching import servicer as searching
from chassis.searching.database import search_database
from chassis.searching.redis import search_redis
from chassis.telemetry.tracing import inject, unrecorded

from worker.adapters.auth import RETRYABLE, Auth
from worker.adapters.catalog_command import GrpcCatalog
from worker.adapters.csv_file import CsvReader
from worker.adapters.files import PostgresFiles
from worker.adapters.heartbeat import Heartbeat
from worker.adapters.ndjson import NdjsonReader
from worker.adapters.postgres import PostgresJobs
from worker.adapters.redis import Signals
from worker.adapters.schedules import RETRYABLE as PLANS_RETRYABLE
from worker.adapters.schedules import GrpcPlans
from worker.adapters.searching import search_uploads
from worker.application.attempts import Attempt
from worker.application.batches import BatchLimits
from worker.application.execution import Execution, Origin
from worker.application.fetching import FetchRun
from worker.application.imports import ImportRun, Surroundings
from worker.application.schedules import ActivateSchedules
from worker.application.submit import Imports, UploadLimits
from worker.domain.errors import SourceRefused
from worker.domain.job import Format, Progress
from worker.entrypoints import metrics
from worker.entrypoints.errors import error_table
from worker.entrypoints.policy import POLICY, SERVICE
from worker.entrypoints.runner import Pace, Runner
from worker.entrypoints.schedules import Clockwork
from worker.entrypoints.servicer import JobsServicer
from worker.settings import Settings

_BLOCKING_SECONDS = 1.0
_logger = structlog.stdlib.get_logger(__name__)


@asynccontextmanager
async def bootstrap(settings: Settings, chassis: Chassis[Settings]) -> AsyncGenerator[Assembly]:
    """Put the service together."""
    dsn = settings.database_urls[0]
    worker = f"{socket.gethostname()}-{os.getpid()}-{uuid7().hex[-6:]}"
    async with AsyncExitStack() as stack:
        database = await Database.open(dsn, name="jobs", size=settings.pool_size)
        stack.push_async_callback(database.close)
        jobs, files = PostgresJobs(database), PostgresFiles(database)
        client = connect(settings.redis_url, identity_directory=settings.identity_directory)
        stack.push_async_callback(client.aclose)
        blocking = connect(
            settings.redis_url, identity_directory=settings.identity_directory, blocking_seconds=_BLOCKING_SECONDS
        )
        stack.push_async_callback(blocking.aclose)
        signals = Signals(client, blocking, worker=worker, blocking_seconds=_BLOCKING_SECONDS)
        heartbeat = Heartbeat(dsn, lease_seconds=settings.lease_seconds)
        stack.push_async_callback(heartbeat.ended)
        stack.enter_context(heartbeat)
        catalog = GrpcCatalog(chassis.channel("catalog-command", default_timeout=settings.call_seconds))
        auth = Auth(chassis.channel("auth", retryable=RETRYABLE))
        limits = BatchLimits(
            rows=settings.batch_rows, bytes=settings.batch_bytes, record_bytes=settings.import_record_bytes
        )

        outbound = outbound_of(settings)

        async def work(attempt: Attempt) -> None:
            fetch = FetchRun(attempt, store=files, ledger=jobs, outbound=outbound, announce=signals.announce)
            if not attempt.job.fetched and not await fetch.run():
                return
            job = attempt.job
            tokens = auth.tokens(user_id=job.submitted_by, job_id=job.job_id)
            run = ImportRun(
                attempt,
                Surroundings(
                    files=files,
                    ledger=jobs,
                    execution=Execution(attempt, catalog, tokens, call_seconds=settings.call_seconds),
                    reader=CsvReader() if job.options.format is Format.CSV else NdjsonReader(),
                    limits=limits,
                    in_flight=settings.batches_in_flight,
                    origin=lambda: origin(job.options.reason),
                    announce=signals.announce,
                    counted=count_rows,
                ),
            )
            await run.run()

        runner = Runner(
            worker=worker,
            jobs=jobs,
            signals=signals,
            heartbeat=heartbeat,
            work=work,
            pace=Pace(
                jobs_at_once=settings.jobs_at_once,
                lease=settings.lease_seconds,
                sweep=settings.sweep_seconds,
                housekeeping=settings.housekeeping_seconds,
                drain=settings.drain_seconds,
                maximum_stalls=settings.maximum_stalls,
                upload_idle=settings.upload_idle_seconds,
                retention=settings.file_retention_seconds,
            ),
        )
        imports = Imports(
            jobs=jobs,
            files=files,
            limits=UploadLimits(
                file_bytes=settings.import_file_bytes,
                chunk_bytes=files.chunk_bytes,
                idle_seconds=settings.upload_idle_seconds,
            ),
            ring=signals.ring,
            new_id=uuid7,
            check_source=lambda url: check_source(outbound.policy, url),
        )
        servicer = JobsServicer(
            jobs=jobs,
            imports=imports,
            changes=signals,
            spacing=settings.watch_spacing_seconds,
            poll=settings.watch_poll_seconds,
        )
        # Redis is shared, and this the one service that searches all of it.
        searches: list[searching.Search] = [
            partial(search_database, database),
            partial(search_uploads, database),
            partial(search_redis, client),
        ]
        yield Assembly(
            servicers=[
                (SERVICE, jobs_pb2_grpc.add_JobsServiceServicer_to_server, servicer),
                (searching.SERVICE, searching.add_to_server, searching.PersonalDataServicer(searches)),
            ],
            policy=POLICY,
            errors=error_table(),
            tasks=[runner.run, signals.send, signals.receive, *_clockwork(settings, chassis, catalog, auth)],
            probes={"database": database.ping},
        )


def _clockwork(
    settings: Settings, chassis: Chassis[Settings], catalog: GrpcCatalog, auth: Auth
) -> Sequence[Callable[[], Coroutine[Any, Any, None]]]:
    """What carries out schedules, where there is a list of them."""
    if not settings.catalog_query_target:
        _logger.warning("no schedules are carried out here: ALMAGEST_CATALOG_QUERY_TARGET is not set")
        return ()
    channel = chassis.channel("catalog-query", retryable=PLANS_RETRYABLE)
    activate = ActivateSchedules(
        plans=GrpcPlans(channel, call_seconds=settings.call_seconds),
        catalog=catalog,
        tokens_of=lambda user_id, schedule_id: auth.tokens(user_id=user_id, job_id=uuid.UUID(schedule_id)),
        call_seconds=settings.call_seconds,
    )
    return (Clockwork(activate, poll=settings.schedule_poll_seconds).run,)


def outbound_of(settings: Settings) -> Outbound:
    """What fetches files, from where the settings allow."""
    policy = OutboundPolicy(
        hosts=tuple(host.lower() for host in settings.import_hosts),
        networks=settings.import_networks,
        ports=frozenset(settings.import_ports),
        plaintext=settings.import_plaintext,
        seconds=settings.import_fetch_seconds,
        idle_seconds=settings.import_fetch_idle_seconds,
        maximum_bytes=settings.import_file_bytes,
    )
    authorities = settings.import_ca_file
    return Outbound(policy, tls=None if authorities is None else ssl.create_default_context(cafile=str(authorities)))


def check_source(policy: OutboundPolicy, url: str) -> None:
    """See that a file may be fetched from a URL.

    Raises:
        SourceRefused: It may not; the message says what can be done about it.
    """
    if not policy.hosts:
        raise SourceRefused(
            "Files are not fetched here. Send the file itself, or ask an operator to allow its host"
            " (ALMAGEST_IMPORT_HOSTS of the worker)."
        )
    try:
        policy.check(url)
    except OutboundRefused as error:
        raise SourceRefused(error.message) from None


def origin(reason: str) -> Origin:
    """Where the items of a call come from. One of them continues the trace of the run; a trace of a thousand spans
    helps nobody.
    """
    traceparent = inject() or unrecorded()
    return Origin(reason=reason, traced=traceparent, untraced=f"{traceparent[:-2]}00")


def count_rows(before: Progress, after: Progress) -> None:
    """Count what has just been dealt with."""
    metrics.rows.labels("created").inc(after.rows_created - before.rows_created)
    metrics.rows.labels("changed").inc(after.rows_changed - before.rows_changed)
    metrics.rows.labels("unchanged").inc(after.rows_unchanged - before.rows_unchanged)
    metrics.rows.labels("refused").inc(after.rows_refused - before.rows_refused)
