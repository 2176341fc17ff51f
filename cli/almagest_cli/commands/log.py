"""`log`: looking after the event log itself, as its operator."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Any

import grpc
import typer
from almagest.eventstore.v1 import (
    administration_pb2,
    administration_pb2_grpc,
    event_pb2,
    event_store_pb2,
    event_store_pb2_grpc,
)
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from almagest_cli import operating, output
from almagest_cli.output import CommandError, Exit, Json, err, out

EVENT_STORE = "event-store"
BUCKETS = 1024
_PHASES = {
    administration_pb2.MOVE_PHASE_COPYING: "copying",
    administration_pb2.MOVE_PHASE_FENCED: "fenced",
    administration_pb2.MOVE_PHASE_DONE: "done",
    administration_pb2.MOVE_PHASE_FAILED: "failed",
    administration_pb2.MOVE_PHASE_CANCELLED: "cancelled",
}
_GIVEN_UP = {administration_pb2.MOVE_PHASE_FAILED, administration_pb2.MOVE_PHASE_CANCELLED}
_PAGE = 200
_CANCEL_SECONDS = 60

app = typer.Typer(
    help="Look after the event log: prove that it is whole, move buckets between its shards, archive what is old.",
    no_args_is_help=True,
)


@app.command()
def verify(
    *,
    shard: Annotated[int | None, typer.Option(min=0, help="Only this shard.")] = None,
    after: Annotated[int, typer.Option(min=0, help="Take this position for granted. Needs --shard.")] = 0,
    as_json: Json = False,
) -> None:
    """Compute the chain of hashes again, compare the tables beside the events with them, and name the first event or
    row that is not what was written.

    The hash that it ends with, kept elsewhere, proves later that nothing before it was changed.
    """
    if after and shard is None:
        raise typer.BadParameter("--after needs --shard.")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    whole = True
    with (
        operating.channel(EVENT_STORE) as channel,
        Progress(*columns, console=err, transient=True, disable=as_json or not err.is_terminal) as bars,
    ):
        for number in [shard] if shard is not None else _shards(channel):
            task = bars.add_task(f"shard {number}", total=None)
            last = administration_pb2.VerifyResponse()
            stub = administration_pb2_grpc.EventStoreAdministrationServiceStub(channel)
            for last in stub.Verify(administration_pb2.VerifyRequest(shard=number, after=after)):
                bars.update(task, completed=last.position, total=last.until)
            whole = _tell(number, last, as_json=as_json) and whole
    if not whole:
        raise CommandError("The log is not what was written.", hint="Compare with a backup from before.")


@app.command("map")
def show_map(*, as_json: Json = False) -> None:
    """Show which shard holds which buckets, and how far each is."""
    with operating.channel(EVENT_STORE) as channel:
        stub = event_store_pb2_grpc.EventStoreServiceStub(channel)
        answer = stub.GetShardMap(event_store_pb2.GetShardMapRequest(), timeout=10)
    shards = [
        {"shard": one.shard, "buckets": [[part.first, part.last] for part in one.buckets], "head": one.head}
        for one in answer.shards
    ]
    if as_json:
        output.print_json({"epoch": answer.epoch, "shards": shards})
        return
    table = Table("Shard", "Buckets", "", "Head", box=None, pad_edge=False)
    for one in answer.shards:
        count = sum(part.last - part.first + 1 for part in one.buckets)
        table.add_row(str(one.shard), ", ".join(map(_range, one.buckets)) or "none", str(count), str(one.head))
    out.print(table)
    out.print(f"version {answer.epoch} of the map")


@app.command()
def move(
    *,
    buckets: Annotated[str, typer.Option(help="The buckets, such as 0-127 or 5.", show_default=False)],
    to: Annotated[int, typer.Option(min=0, help="The shard to move them to.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Move buckets to another shard while the log is used.

    The buckets are switched in slices of a few; writes to those of a slice wait for a moment, and nothing else does.
    When this command breaks off, the move goes on; the same command again follows it.
    """
    wanted = _buckets(buckets)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    last: administration_pb2.Move | None = None
    with (
        operating.channel(EVENT_STORE) as channel,
        Progress(*columns, console=err, transient=True, disable=as_json or not err.is_terminal) as bars,
    ):
        stub = administration_pb2_grpc.EventStoreAdministrationServiceStub(channel)
        tasks: dict[str, Any] = {}
        for answer in stub.MoveBuckets(administration_pb2.MoveBucketsRequest(buckets=wanted, to_shard=to)):
            last = answer.move
            if last.move_id not in tasks:
                tasks[last.move_id] = bars.add_task(f"{_range(last.buckets)} from shard {last.from_shard}", total=None)
            bars.update(tasks[last.move_id], completed=last.copied_events, total=last.total_events or None)
            if as_json:
                output.print_json(_plain(last))
            elif last.phase == administration_pb2.MOVE_PHASE_DONE or last.phase in _GIVEN_UP:
                out.print(_said(last))
    if last is None:
        if not as_json:
            out.print(f"{_range(wanted)}: all of them are in shard {to} already")
    elif last.phase in _GIVEN_UP:
        raise CommandError(f"Not all buckets were moved: {last.error}", hint=_where(last))


@app.command("cancel-move")
def cancel_move(
    move_id: Annotated[str, typer.Argument(help="The id of the move; without it, the one under way.")] = "",
    *,
    as_json: Json = False,
) -> None:
    """End a move of buckets where it is, and wait until it has ended.

    What was not switched yet stays where it is. What was copied of it is used by the next move.
    """
    with operating.channel(EVENT_STORE) as channel:
        stub = administration_pb2_grpc.EventStoreAdministrationServiceStub(channel)
        ended = stub.CancelMove(administration_pb2.CancelMoveRequest(move_id=move_id), timeout=_CANCEL_SECONDS).move
    if as_json:
        output.print_json(_plain(ended))
    else:
        out.print(_said(ended))


@app.command()
def moves(*, as_json: Json = False) -> None:
    """List the moves of buckets, the latest first."""
    with operating.channel(EVENT_STORE) as channel:
        found = list(_moves(administration_pb2_grpc.EventStoreAdministrationServiceStub(channel)))
    if as_json:
        for one in found:
            output.print_json(_plain(one))
        return
    table = Table("Began", "Buckets", "From", "To", "Phase", "Events", "Pause", "Map", "", box=None, pad_edge=False)
    for one in found:
        table.add_row(
            one.began_at.ToDatetime().strftime("%Y-%m-%d %H:%M:%S"),
            _range(one.buckets),
            str(one.from_shard),
            str(one.to_shard),
            _PHASES.get(one.phase, ""),
            f"{one.copied_events}/{one.total_events}",
            _pause(one),
            str(one.epoch or ""),
            escape(one.error),
        )
    out.print(table)


@app.command()
def archive(
    *,
    shard: Annotated[int | None, typer.Option(min=0, help="Only this shard.")] = None,
    until: Annotated[int, typer.Option(min=0, help="Only up to this position. Needs --shard.")] = 0,
    older_than: Annotated[float | None, typer.Option(min=0, help="Only what is older than so many days.")] = None,
    as_json: Json = False,
) -> None:
    """Move old events from the database into compressed files, from which they are read as before.

    Whole files only: what does not fill one stays.
    """
    if until and shard is None:
        raise typer.BadParameter("--until needs --shard.")
    if not until and older_than is None:
        raise typer.BadParameter("Say which events: --older-than, or --shard and --until.")
    with operating.channel(EVENT_STORE) as channel:
        stub = administration_pb2_grpc.EventStoreAdministrationServiceStub(channel)
        for number in [shard] if shard is not None else _shards(channel):
            request = administration_pb2.ArchiveEventsRequest(shard=number, until=until)
            if older_than is not None:
                request.older_than.FromTimedelta(timedelta(days=older_than))
            made = 0
            for answer in stub.ArchiveEvents(request):
                made += 1
                _show_archive(answer.archive, as_json=as_json)
            if not made and not as_json:
                out.print(f"shard {number}: nothing that fills a file")


@app.command()
def archives(
    *, shard: Annotated[int | None, typer.Option(min=0, help="Only this shard.")] = None, as_json: Json = False
) -> None:
    """List the files that old events were moved to."""
    with operating.channel(EVENT_STORE) as channel:
        stub = administration_pb2_grpc.EventStoreAdministrationServiceStub(channel)
        for number in [shard] if shard is not None else _shards(channel):
            request = administration_pb2.ListArchivesRequest(shard=number)
            for one in stub.ListArchives(request, timeout=10).archives:
                _show_archive(one, as_json=as_json)


def _show_archive(one: administration_pb2.Archive, *, as_json: bool) -> None:
    if as_json:
        output.print_json(
            {
                "shard": one.shard,
                "first": one.first,
                "last": one.last,
                "name": one.name,
                "bytes": one.bytes,
                "sha256": one.sha256.hex(),
                "created_at": one.created_at.ToJsonString(),
            }
        )
    else:
        out.print(f"shard {one.shard}: positions {one.first} to {one.last} in {one.name}, {one.bytes} bytes")


def _moves(stub: Any) -> Iterator[administration_pb2.Move]:
    token = ""
    while True:
        request = administration_pb2.ListMovesRequest(page_size=_PAGE, page_token=token)
        answer = stub.ListMoves(request, timeout=10)
        yield from answer.moves
        token = answer.next_page_token
        if not token:
            return


def _buckets(text: str) -> event_pb2.BucketRange:
    first, _, last = text.partition("-")
    last = last or first
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < BUCKETS):
        raise CommandError(f"--buckets is a range within 0-{BUCKETS - 1}, not {text!r}.", code=Exit.USAGE)
    return event_pb2.BucketRange(first=int(first), last=int(last))


def _range(buckets: event_pb2.BucketRange) -> str:
    return str(buckets.first) if buckets.first == buckets.last else f"{buckets.first}-{buckets.last}"


def _pause(one: administration_pb2.Move) -> str:
    return f"{one.pause.ToNanoseconds() / 1e6:.1f} ms" if one.HasField("pause") else ""


def _where(one: administration_pb2.Move) -> str:
    """Where the buckets of a move are that was given up."""
    if not one.slices:
        return f"They are in shard {one.from_shard}, as before."
    switched = ", ".join(_range(piece.buckets) for piece in one.slices)
    return f"{switched}: in shard {one.to_shard}; the others in shard {one.from_shard}, as before."


def _said(one: administration_pb2.Move) -> str:
    if one.phase in _GIVEN_UP:
        return f"{_range(one.buckets)}: {_PHASES[one.phase]}. {_where(one)}"
    pause = f", each bucket paused for {_pause(one)} at most" if _pause(one) else ""
    return (
        f"{_range(one.buckets)}: from shard {one.from_shard} to {one.to_shard}, {one.copied_events} events{pause};"
        f" version {one.epoch} of the map"
    )


def _plain(one: administration_pb2.Move) -> dict[str, Any]:
    return {
        "move_id": one.move_id,
        "buckets": [one.buckets.first, one.buckets.last],
        "from_shard": one.from_shard,
        "to_shard": one.to_shard,
        "phase": _PHASES.get(one.phase, ""),
        "copied_events": one.copied_events,
        "total_events": one.total_events,
        "pause_seconds": one.pause.ToNanoseconds() / 1e9 if one.HasField("pause") else None,
        "slices": [
            {
                "buckets": [piece.buckets.first, piece.buckets.last],
                "pause_seconds": piece.pause.ToNanoseconds() / 1e9 if piece.HasField("pause") else None,
                "epoch": piece.epoch,
                "switched_at": piece.switched_at.ToJsonString(),
            }
            for piece in one.slices
        ],
        "epoch": one.epoch or None,
        "began_at": one.began_at.ToJsonString(),
        "ended_at": one.ended_at.ToJsonString() if one.HasField("ended_at") else None,
        "error": one.error,
    }


def _shards(channel: grpc.Channel) -> list[int]:
    stub = event_store_pb2_grpc.EventStoreServiceStub(channel)
    answer = stub.GetShardMap(event_store_pb2.GetShardMapRequest(), timeout=10)
    return [one.shard for one in answer.shards]


def _tell(shard: int, last: administration_pb2.VerifyResponse, *, as_json: bool) -> bool:
    """Say how a shard was found; whether it is whole."""
    fault = last.fault if last.HasField("fault") else None
    if as_json:
        found = None
        if fault is not None:
            found = {"position": fault.position, "detail": fault.detail, "table": fault.table, "row": fault.row}
        told = {"shard": shard, "position": last.position, "hash": last.hash.hex(), "rows": last.rows, "fault": found}
        output.print_json(told)
    elif fault is None:
        out.print(f"shard {shard}: whole up to position {last.position}, hash {last.hash.hex()}")
    elif fault.table not in {"", "events"}:
        row = f", row {escape(fault.row)}" if fault.row else ""
        told = f"table {fault.table}{row}, does not agree with the events"
        out.print(f"shard {shard}: [bold red]{told}[/]: {escape(fault.detail)}")
    else:
        out.print(f"shard {shard}: [bold red]position {fault.position} does not hold[/]: {escape(fault.detail)}")
    return fault is None
