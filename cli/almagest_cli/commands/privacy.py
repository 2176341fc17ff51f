"""`privacy`: forgetting people, and the keys that what is known of them is sealed with."""

from enum import Enum
from typing import Annotated, Any
from urllib.parse import quote

import orjson
import typer
from almagest.auth.v1 import privacy_pb2, privacy_pb2_grpc
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from almagest_cli import operating, output
from almagest_cli.client import Client
from almagest_cli.output import Json, err, out
from almagest_cli.settings import ClientSettings

AUTH = "auth"
app = typer.Typer(
    help="Forget people and see what is left of them; rotate the keys that people are sealed with.",
    no_args_is_help=True,
)


class Keys(Enum):
    """What is rotated."""

    ALL = "all"
    COLUMNS = "columns"
    INDEX = "index"
    WRAPPING = "wrapping"


_WIRE = {
    Keys.ALL: privacy_pb2.RotateDataKeysRequest.KEYS_UNSPECIFIED,
    Keys.COLUMNS: privacy_pb2.RotateDataKeysRequest.KEYS_COLUMNS,
    Keys.INDEX: privacy_pb2.RotateDataKeysRequest.KEYS_INDEX,
    Keys.WRAPPING: privacy_pb2.RotateDataKeysRequest.KEYS_WRAPPING,
}


@app.command()
def rotate(
    keys: Annotated[
        Keys,
        typer.Argument(
            help="`columns`: the key of names and addresses; `index`: that of the look-up by address; `wrapping`: wrap "
            "all keys under the present key-encryption key."
        ),
    ] = Keys.ALL,
    *,
    as_json: Json = False,
) -> None:
    """Seal everything anew under new keys, while the system goes on.

    When this command breaks off, the same command again goes on where it ended.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        operating.channel(AUTH) as channel,
        Progress(*columns, console=err, disable=as_json or not err.is_terminal) as bars,
    ):
        tasks: dict[str, Any] = {}
        stub = privacy_pb2_grpc.PrivacyServiceStub(channel)
        for progress in stub.RotateDataKeys(privacy_pb2.RotateDataKeysRequest(keys=_WIRE[keys])):
            if as_json:
                output.print_json({"step": progress.step, "total": progress.total, "done": progress.done})
                continue
            if progress.step not in tasks:
                tasks[progress.step] = bars.add_task(progress.step, total=None)
            bars.update(tasks[progress.step], completed=progress.done, total=progress.total)
    if not as_json:
        out.print("Everything is sealed with new keys." if keys is Keys.ALL else f"Done: {keys.value}.")


_UserId = Annotated[str, typer.Argument(help="The id of the user.", show_default=False)]


@app.command()
def forget(
    user_id: _UserId,
    *,
    block_email: Annotated[bool, typer.Option(help="Nobody may have the e-mail address again.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Forget a person, for ever: nobody can undo it."""
    if not yes:
        typer.confirm(f"Forget {user_id} for ever?", abort=True, err=True)
    with Client(ClientSettings.read()) as client:
        path = f"/v1/users/{quote(user_id, safe='')}:forget"
        answer = client.post(f"{path}?block_email=true" if block_email else path)
    _show(answer.content, as_json=as_json)


@app.command()
def erasure(user_id: _UserId, *, as_json: Json = False) -> None:
    """Show what is left of a forgotten person, and the certificate."""
    with Client(ClientSettings.read()) as client:
        answer = client.get(f"/v1/users/{quote(user_id, safe='')}/erasure", {})
    _show(answer.content, as_json=as_json)


def _show(content: bytes, *, as_json: bool) -> None:
    if as_json:
        output.print_json(content)
        return
    told = orjson.loads(content)
    table = Table("Service", "Store", "Searched", "Findings", "Mentions")
    for store in told["stores"]:
        searched = f"{store['searched']}/{store['total']}"
        table.add_row(store["service"], store["store"], searched, str(store["findings"]), str(store["mentions"]))
    out.print(table)
    out.print(f"forgotten at {told['forgotten_at']}, {told['state']}")
    if told["certificate"]:
        out.print(told["certificate"], soft_wrap=True, highlight=False)
