"""`login`, `token` and `logout`."""

import sys
from typing import Annotated

import typer
from rich.markup import escape

from almagest_cli import output
from almagest_cli.client import Client
from almagest_cli.local.layout import ADMIN_EMAIL
from almagest_cli.output import CommandError, Exit, Json, out
from almagest_cli.settings import ClientSettings


def login(
    *,
    email: Annotated[str, typer.Option("--email", "-e", help="Who you are.")] = ADMIN_EMAIL,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input instead of asking.")
    ] = False,
    bound: Annotated[
        bool,
        typer.Option("--bound", help="Bind the tokens to a key, without which copies of them are worthless."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Log in at the gateway. The session is kept in the state directory, for your eyes only."""
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    elif sys.stdin.isatty():
        password = typer.prompt(f"Password of {email}", hide_input=True, err=True)
    else:
        raise CommandError(
            "There is nobody to ask for the password.", code=Exit.USAGE, hint="Pipe it in, with --password-stdin."
        )
    settings = ClientSettings.read()
    with Client(settings) as client:
        user = client.log_in(email, password, bound=bound)
    if as_json:
        output.print_json({"url": settings.url, "user": user})
    else:
        out.print(f"Logged in at {settings.url} as {escape(user['email'])} ({', '.join(user['roles'])}).")


def token(*, as_json: Json = False) -> None:
    """Print an access token of the session, for curl. It is good for some minutes; ask again then."""
    with Client(ClientSettings.read()) as client:
        access_token = client.access_token()
    if as_json:
        output.print_json({"access_token": access_token})
    else:
        # Not through the table of styles, which breaks long lines.
        sys.stdout.write(f"{access_token}\n")


def logout(*, as_json: Json = False) -> None:
    """End the session, here and at the gateway."""
    with Client(ClientSettings.read()) as client:
        ended = client.log_out()
    if as_json:
        output.print_json({"logged_out": ended})
    else:
        out.print("Logged out." if ended else "Nobody was logged in.")
