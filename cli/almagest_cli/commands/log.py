"""`log`: looking after the event log itself, as its operator."""

from typing import Annotated

import grpc
import typer
from almagest.eventstore.v1 import (
    administration_pb2,
    administration_pb2_grpc,
    event_store_pb2,
    event_store_pb2_grpc,
)
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from almagest_cli import operating, output
from almagest_cli.output import CommandError, Json, err, out

EVENT_STORE = "event-store"

app = typer.Typer(help="Look after the event log: prove that it is whole.", no_args_is_help=True)


@app.command()
def verify(
    *,
    shard: Annotated[int | None, typer.Option(min=0, help="Only this shard.")] = None,
    after: Annotated[int, typer.Option(min=0, help="Take this position for granted. Needs --shard.")] = 0,
    as_json: Json = False,
) -> None:
    """Compute the chain of hashes again, and name the first event that is not what was written.

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


def _shards(channel: grpc.Channel) -> list[int]:
    stub = event_store_pb2_grpc.EventStoreServiceStub(channel)
    answer = stub.GetShardMap(event_store_pb2.GetShardMapRequest(), timeout=10)
    return [one.shard for one in answer.shards]


def _tell(shard: int, last: administration_pb2.VerifyResponse, *, as_json: bool) -> bool:
    """Say how a shard was found; whether it is whole."""
    fault = last.fault if last.HasField("fault") else None
    if as_json:
        found = None if fault is None else {"position": fault.position, "detail": fault.detail}
        output.print_json({"shard": shard, "position": last.position, "hash": last.hash.hex(), "fault": found})
    elif fault is None:
        out.print(f"shard {shard}: whole up to position {last.position}, hash {last.hash.hex()}")
    else:
        out.print(f"shard {shard}: [bold red]position {fault.position} does not hold[/]: {escape(fault.detail)}")
    return fault is None
