"""`users` and `sessions`: people, one by one and in bulk, and where they are logged in."""

import csv
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, cast

import orjson
import typer
from rich.markup import escape
from rich.table import Table

from almagest_cli import output
from almagest_cli.client import Client
from almagest_cli.commands.catalog import more, print_pages
from almagest_cli.output import CommandError, Exit, Json, err, out
from almagest_cli.settings import ClientSettings

users = typer.Typer(help="People, and what they may do. For admins.", no_args_is_help=True)
sessions = typer.Typer(help="Where one is logged in.", no_args_is_help=True)

_AT_ONCE = 100
"""People of a request. Each password takes a few hundredths of a second to hash."""
_LARGEST_PAGE = 500
_FIELDS = ("email", "password", "first_name", "last_name", "roles")

Who = Annotated[str, typer.Argument(help="The id of the user, or the e-mail address.", show_default=False)]


@users.command("list")
def list_users(
    *,
    limit: Annotated[int, typer.Option(min=1, max=_LARGEST_PAGE, help="How many at most.")] = 50,
    every: Annotated[bool, typer.Option("--all", help="All people.")] = False,
    as_json: Json = False,
) -> None:
    """Show people, in the order in which they came."""
    with Client(ClientSettings.read()) as client:
        pages = client.pages("/v1/users", {"page_size": _LARGEST_PAGE if every else limit})
        if as_json:
            print_pages(pages, every=every)
            return
        for page in pages:
            out.print(_table(page["items"]))
            if not every:
                more(page)
                return


@users.command("show")
def show(*, who: Who, as_json: Json = False) -> None:
    """Show a person."""
    with Client(ClientSettings.read()) as client:
        user = _find(client, who)
    _show(user, as_json=as_json)


@users.command("create")
def create(
    *,
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="JSON lines, or CSV with a header.", show_default=False)
    ],
    as_json: Json = False,
) -> None:
    """Create people in bulk: email, password, first_name, last_name and roles (separated by spaces) of each.

    Those who exist already are refused, and nothing happens to them: the same file again is safe.
    """
    people = list(_people(file))
    created = refused = 0
    with Client(ClientSettings.read()) as client:
        for batch in (people[at : at + _AT_ONCE] for at in range(0, len(people), _AT_ONCE)):
            answer = orjson.loads(client.post("/v1/users:batchCreate", json={"users": batch}).content)
            for person, result in zip(batch, answer["results"], strict=True):
                created, refused = created + bool(result["user"]), refused + bool(result["problem"])
                _tell(person["email"], result, as_json=as_json)
    if not as_json:
        out.print(f"{created} created, {refused} refused.")
    if refused:
        raise typer.Exit(Exit.REFUSED)


@users.command("roles")
def roles(
    *,
    who: Who,
    names: Annotated[list[str], typer.Argument(metavar="ROLES...", help="viewer, editor, admin.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Give a person these roles and no others. It holds at once."""
    _change(who, {"roles": names}, as_json=as_json)


@users.command("disable")
def disable(*, who: Who, as_json: Json = False) -> None:
    """Let a person do nothing any more, until they are enabled again."""
    _change(who, {"disabled": True}, as_json=as_json)


@users.command("enable")
def enable(*, who: Who, as_json: Json = False) -> None:
    """Let a person in again."""
    _change(who, {"disabled": False}, as_json=as_json)


@sessions.command("list")
def list_sessions(
    *,
    user: Annotated[str | None, typer.Option(help="Whose: a user's id or e-mail address. For admins.")] = None,
    as_json: Json = False,
) -> None:
    """Show your sessions that have not ended, or another's."""
    with Client(ClientSettings.read()) as client:
        answer = client.get("/v1/sessions", {} if user is None else {"user_id": _find(client, user)["user_id"]})
    if as_json:
        output.print_json(answer.content)
        return
    table = Table("Session", "Began", "Used", "Ends", "Bound", "")
    for one in orjson.loads(answer.content)["items"]:
        times = (one[name][:16] for name in ("started_at", "refreshed_at", "expires_at"))
        table.add_row(one["session_id"], *times, "yes" if one["bound"] else "no", "this one" if one["current"] else "")
    out.print(table)


@sessions.command("end")
def end(
    *, session_id: Annotated[str, typer.Argument(help="The session's id.", show_default=False)], as_json: Json = False
) -> None:
    """End a session, yours or, for admins, another's. Within a second nothing works with its tokens."""
    with Client(ClientSettings.read()) as client:
        client.delete(f"/v1/sessions/{_id(session_id)}")
    if as_json:
        output.print_json({"ended": session_id})
    else:
        out.print(f"Ended {session_id}.")


def _change(who: str, wanted: dict[str, Any], *, as_json: bool) -> None:
    with Client(ClientSettings.read()) as client:
        user_id = _find(client, who)["user_id"]
        answer = client.call("PATCH", f"/v1/users/{user_id}", orjson.dumps(wanted))
    _show(orjson.loads(answer.content), as_json=as_json)


def _find(client: Client, who: str) -> dict[str, Any]:
    answer = client.get("/v1/users", {"email": who}) if "@" in who else client.get(f"/v1/users/{_id(who)}")
    return orjson.loads(answer.content)


def _id(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise CommandError(f"{text!r} is no id.", code=Exit.USAGE) from None


def _people(file: Path) -> Iterator[dict[str, Any]]:
    """The people of a file, each with a list of roles."""
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            parsed = (orjson.loads(line) for line in lines if line.strip())
            rows = csv.DictReader(lines) if file.suffix == ".csv" else parsed
            for number, row in enumerate(cast("Iterable[Any]", rows), 1):
                if not isinstance(row, dict) or not isinstance(row.get("email"), str):
                    raise CommandError(f"Person {number} of {file} has no email.", code=Exit.USAGE)
                person: dict[str, Any] = {name: row[name] for name in _FIELDS if row.get(name)}
                if isinstance(person.get("roles"), str):
                    person["roles"] = person["roles"].split()
                yield person
    except (ValueError, csv.Error) as error:
        raise CommandError(
            f"{file} cannot be read: {error}", code=Exit.USAGE, hint="Write JSON lines, or CSV with a header in .csv."
        ) from None


def _tell(email: str, result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.print_json({"email": email} | result)
    elif problem := result["problem"]:
        wrong = "; ".join(f"{one['field']} {one['message']}" for one in problem.get("errors") or ())
        err.print(f"{escape(email)}: {escape(wrong or problem['detail'])}")


def _show(user: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.print_json(user)
    else:
        out.print(_table([user]))


def _table(found: list[dict[str, Any]]) -> Table:
    table = Table("User", "E-mail", "Name", "Roles", "Since", "", box=None, header_style="bold", pad_edge=False)
    for user in found:
        cells = (user["user_id"], user["email"] or "", user["full_name"], " ".join(user["roles"]))
        state = "disabled" if user["disabled"] else ""
        table.add_row(*(escape(cell) for cell in cells), user["created_at"][:10], state)
    return table
