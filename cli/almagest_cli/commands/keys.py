"""`keys`, `call` and `sign`: access keys, and any request of the API, signed with one or in a session."""

import hashlib
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import orjson
import typer
from rich.markup import escape
from rich.table import Table

from almagest_cli import output
from almagest_cli.client import Client
from almagest_cli.output import CommandError, Exit, Json, err, out
from almagest_cli.settings import ClientSettings
from almagest_cli.signing import Key, digest_header, signature_headers, write_key

app = typer.Typer(help="Keys that sign requests in place of a session.", no_args_is_help=True)

_File = Annotated[
    Path, typer.Option("--file", "-f", help="Where the key goes: set ALMAGEST_KEY to it, and commands act by the key.")
]
_Days = Annotated[int | None, typer.Option(min=1, help="For how many days it is good; 90 if not said.")]
_KeyId = Annotated[str, typer.Argument(help="The key's id.", show_default=False)]
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE"})


@app.command("create")
def create(
    *,
    name: Annotated[str, typer.Argument(help="A name, for people.", show_default=False)],
    file: _File,
    kind: Annotated[str, typer.Option(help="hmac-sha256 or ed25519.")] = "ed25519",
    scope: Annotated[
        list[str] | None, typer.Option(help="What it may do, such as catalog:read; all that you may if left out.")
    ] = None,
    days: _Days = None,
    user: Annotated[str | None, typer.Option(help="Whose key: the id of a user. For admins.")] = None,
    as_json: Json = False,
) -> None:
    """Issue a key. What it signs with is written to the file, for your eyes only, and told nowhere else."""
    wanted: dict[str, Any] = {"name": name, "kind": kind, "scopes": scope or []}
    if user is not None:
        wanted["user_id"] = user
    _issue("/v1/keys", wanted, file, days, as_json=as_json)


@app.command("list")
def list_keys(
    *,
    user: Annotated[str | None, typer.Option(help="Whose keys: the id of a user. For admins.")] = None,
    as_json: Json = False,
) -> None:
    """Show your keys, also those that have ended."""
    with Client(ClientSettings.read()) as client:
        answer = client.get("/v1/keys", {} if user is None else {"user_id": user})
    if as_json:
        output.print_json(answer.content)
        return
    table = Table("Key", "Name", "Kind", "May", "Ends", "Used")
    for key in orjson.loads(answer.content)["items"]:
        ends = "revoked" if key["revoked_at"] else key["expires_at"][:16]
        used = (key["last_used_at"] or "never")[:16]
        table.add_row(key["key_id"], escape(key["name"]), key["kind"], " ".join(key["scopes"]), ends, used)
    out.print(table)


@app.command("rotate")
def rotate(
    *,
    key_id: _KeyId,
    file: _File,
    overlap: Annotated[int, typer.Option(min=0, help="For how many hours the old key stays good beside it.")] = 24,
    days: _Days = None,
    as_json: Json = False,
) -> None:
    """Replace a key by one like it."""
    wanted: dict[str, Any] = {}
    if overlap:
        wanted["old_until"] = (datetime.now(UTC) + timedelta(hours=overlap)).isoformat()
    _issue(f"/v1/keys/{quote(key_id, safe='')}:rotate", wanted, file, days, as_json=as_json)


@app.command("revoke")
def revoke(*, key_id: _KeyId, as_json: Json = False) -> None:
    """End a key at once, for ever."""
    with Client(ClientSettings.read()) as client:
        answer = client.post(f"/v1/keys/{quote(key_id, safe='')}:revoke")
    if as_json:
        output.print_json(answer.content)
    else:
        out.print(f"Revoked {orjson.loads(answer.content)['key_id']}.")


def call(
    *,
    method: Annotated[str, typer.Argument(help="Such as GET.", show_default=False)],
    path: Annotated[str, typer.Argument(help="Such as /v1/products?kind=car.", show_default=False)],
    data: Annotated[str | None, typer.Option("--data", "-d", help="The body, JSON; @file reads it from there.")] = None,
) -> None:
    """Ask the API for anything: in the session, or signed with the key that ALMAGEST_KEY names."""
    if method.upper() not in _METHODS or not path.startswith("/"):
        raise CommandError("This is no method and path.", code=Exit.USAGE, hint="Write: almagest call GET /v1/products")
    body: bytes | None = None
    if data is not None:
        try:
            body = Path(data[1:]).read_bytes() if data.startswith("@") else data.encode()
        except OSError as error:
            raise CommandError(f"{data[1:]} cannot be read: {error.strerror}") from None
    with Client(ClientSettings.read()) as client:
        answer = client.call(method.upper(), path, body)
    err.print(f"{answer.status_code} {answer.reason_phrase}")
    sys.stdout.buffer.write(answer.content)
    sys.stdout.buffer.flush()


def sign(
    *,
    method: Annotated[str, typer.Argument(help="Such as GET.", show_default=False)],
    path: Annotated[str, typer.Argument(help="Such as /v1/products?kind=car.", show_default=False)],
    data: Annotated[str | None, typer.Option("--data", "-d", help="The body, JSON.")] = None,
) -> None:
    """Sign one request with the key that ALMAGEST_KEY names, for `curl -K -`."""
    settings = ClientSettings.read()
    if settings.key is None:
        raise CommandError("ALMAGEST_KEY is not set.", code=Exit.USAGE, hint="Run `almagest keys create`.")
    url = str(httpx.URL(settings.url + path))
    headers: dict[str, str] = {}
    if data is not None:
        digest = digest_header(hashlib.sha256(data.encode()).digest())
        headers = {"content-type": "application/json", "content-digest": digest}
    headers |= signature_headers(Key.read(settings.key), method.upper(), url, headers)
    told = [("request", method.upper()), ("url", url), *(("header", f"{name}: {one}") for name, one in headers.items())]
    if data is not None:
        told.append(("data-raw", data))
    if settings.ca is not None:
        told.append(("cacert", str(settings.ca)))
    for name, value in told:
        quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        sys.stdout.write(f'{name} = "{quoted}"\n')


def _issue(path: str, wanted: dict[str, Any], file: Path, days: int | None, *, as_json: bool) -> None:
    if file.exists():
        raise CommandError(f"{file} is there already.", code=Exit.USAGE, hint="A key file is never overwritten.")
    if days is not None:
        wanted["expires_at"] = (datetime.now(UTC) + timedelta(days=days)).isoformat()
    with Client(ClientSettings.read()) as client:
        made = orjson.loads(client.post(path, json=wanted).content)
    Key.of(made)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_key(file, made)
    told = {name: value for name, value in made.items() if name not in ("secret", "private_key")}
    if as_json:
        output.print_json(told | {"file": str(file)})
    else:
        out.print(f"Key {told['key_id']} is good until {told['expires_at'][:10]}, and in {escape(str(file))}.")
        out.print(f"Act by it: export ALMAGEST_KEY={escape(str(file))}")
