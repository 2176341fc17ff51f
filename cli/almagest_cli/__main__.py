"""The `almagest` command."""

import importlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import typer

from almagest_cli import output
from almagest_cli.output import CommandError, Exit

_EPILOG = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not ready or not reachable, 4 not logged in or not allowed, "
    "5 rows refused or conflict. Environment: ALMAGEST_STATE (default ./.almagest), ALMAGEST_URL and ALMAGEST_CA "
    "(default: what `almagest up` started), ALMAGEST_TOKEN (instead of a session), "
    "ALMAGEST_KEY (a key file that signs, instead of both), ALMAGEST_POSTGRES_URL and "
    "ALMAGEST_REDIS_URL (instead of the embedded servers)."
)

_RUN, _DATA, _LOOK = "Run it", "Use it", "Look inside"


class _Command(NamedTuple):
    """A command, or a group of them, and where it is: `module:name` among the commands."""

    name: str
    where: str
    panel: str

    def load(self) -> Any:
        module, _, attribute = self.where.partition(":")
        return getattr(importlib.import_module(f"almagest_cli.commands.{module}"), attribute)


_COMMANDS = (
    _Command("up", "local:up", _RUN),
    _Command("down", "local:down", _RUN),
    _Command("status", "local:status", _RUN),
    _Command("logs", "local:logs", _RUN),
    _Command("reset", "local:reset", _RUN),
    _Command("backup", "backup:app", _RUN),
    _Command("identity", "identity:app", _RUN),
    _Command("login", "session:login", _DATA),
    _Command("token", "session:token", _DATA),
    _Command("logout", "session:logout", _DATA),
    _Command("keys", "keys:app", _DATA),
    _Command("call", "keys:call", _DATA),
    _Command("sign", "keys:sign", _DATA),
    _Command("users", "people:users", _DATA),
    _Command("sessions", "people:sessions", _DATA),
    _Command("demo", "jobs:demo", _DATA),
    _Command("import", "jobs:import_file", _DATA),
    _Command("get", "catalog:get", _DATA),
    _Command("list", "catalog:list_products", _DATA),
    _Command("search", "catalog:search", _DATA),
    _Command("schedule", "schedules:app", _DATA),
    _Command("unschedule", "schedules:unschedule", _DATA),
    _Command("correct", "schedules:correct", _DATA),
    _Command("restore", "schedules:restore", _DATA),
    _Command("schedules", "schedules:schedules", _LOOK),
    _Command("history", "history:history", _LOOK),
    _Command("diff", "history:diff", _LOOK),
    _Command("explain", "history:explain", _LOOK),
    _Command("changes", "changes:changes", _LOOK),
    _Command("audit", "audit:audit", _LOOK),
    _Command("jobs", "jobs:app", _LOOK),
    _Command("log", "log:app", _LOOK),
    _Command("privacy", "privacy:app", _RUN),
    _Command("projections", "projections:app", _LOOK),
    _Command("trace", "trace:trace", _LOOK),
)


def application(arguments: Sequence[str] = ()) -> typer.Typer:
    """The command with all that it can do; or, where the arguments begin with what is to be done, with that only: to
    load the rest takes as long again.
    """
    made = typer.Typer(
        name="almagest",
        help="Almagest, a product catalog: run it on this machine, fill it, ask it.",
        epilog=_EPILOG,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )

    @made.callback()
    def _several() -> None:
        """Also with one command, its name must be given."""

    asked = [command for command in _COMMANDS if command.name in arguments[:1]]
    for command in asked or _COMMANDS:
        what = command.load()
        if isinstance(what, typer.Typer):
            made.add_typer(what, name=command.name, rich_help_panel=command.panel)
        else:
            made.command(command.name, rich_help_panel=command.panel)(what)
    return made


def main() -> None:
    """Run the command; every expected failure ends with a sentence and its exit code."""
    try:
        application(sys.argv[1:])()
    except CommandError as error:
        output.report(error, as_json="--json" in sys.argv)
        sys.exit(error.code)
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python must not complain when it closes the pipe.
        sys.stdout = sys.stderr = None
        sys.exit(Exit.FAILURE)


if __name__ == "__main__":
    main()
