"""The `almagest` command."""

import sys

import typer

from almagest_cli import output
from almagest_cli.commands import (
    audit,
    backup,
    catalog,
    changes,
    history,
    identity,
    jobs,
    keys,
    local,
    log,
    people,
    privacy,
    projections,
    schedules,
    session,
    trace,
)
from almagest_cli.output import CommandError, Exit

_EPILOG = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not ready or not reachable, 4 not logged in or not allowed, "
    "5 rows refused or conflict. Environment: ALMAGEST_STATE (default ./.almagest), ALMAGEST_URL and ALMAGEST_CA "
    "(default: what `almagest up` started), ALMAGEST_TOKEN (instead of a session), "
    "ALMAGEST_KEY (a key file that signs, instead of both), ALMAGEST_POSTGRES_URL and "
    "ALMAGEST_REDIS_URL (instead of the embedded servers)."
)

app = typer.Typer(
    name="almagest",
    help="Almagest, a product catalog: run it on this machine, fill it, ask it.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_RUN, _DATA, _LOOK = "Run it", "Use it", "Look inside"

app.command(rich_help_panel=_RUN)(local.up)
app.command(rich_help_panel=_RUN)(local.down)
app.command(rich_help_panel=_RUN)(local.status)
app.command(rich_help_panel=_RUN)(local.logs)
app.command(rich_help_panel=_RUN)(local.reset)
app.add_typer(backup.app, name="backup", rich_help_panel=_RUN)
app.add_typer(identity.app, name="identity", rich_help_panel=_RUN)
app.command(rich_help_panel=_DATA)(session.login)
app.command(rich_help_panel=_DATA)(session.token)
app.command(rich_help_panel=_DATA)(session.logout)
app.add_typer(keys.app, name="keys", rich_help_panel=_DATA)
app.command(rich_help_panel=_DATA)(keys.call)
app.command(rich_help_panel=_DATA)(keys.sign)
app.add_typer(people.users, name="users", rich_help_panel=_DATA)
app.add_typer(people.sessions, name="sessions", rich_help_panel=_DATA)
app.command(rich_help_panel=_DATA)(jobs.demo)
app.command("import", rich_help_panel=_DATA)(jobs.import_file)
app.command(rich_help_panel=_DATA)(catalog.get)
app.command("list", rich_help_panel=_DATA)(catalog.list_products)
app.command(rich_help_panel=_DATA)(catalog.search)
app.add_typer(schedules.app, name="schedule", rich_help_panel=_DATA)
app.command(rich_help_panel=_DATA)(schedules.unschedule)
app.command(rich_help_panel=_DATA)(schedules.correct)
app.command(rich_help_panel=_DATA)(schedules.restore)
app.command(rich_help_panel=_LOOK)(schedules.schedules)
app.command(rich_help_panel=_LOOK)(history.history)
app.command(rich_help_panel=_LOOK)(history.diff)
app.command(rich_help_panel=_LOOK)(history.explain)
app.command(rich_help_panel=_LOOK)(changes.changes)
app.command(rich_help_panel=_LOOK)(audit.audit)
app.add_typer(jobs.app, name="jobs", rich_help_panel=_LOOK)
app.add_typer(log.app, name="log", rich_help_panel=_LOOK)
app.add_typer(privacy.app, name="privacy", rich_help_panel=_RUN)
app.add_typer(projections.app, name="projections", rich_help_panel=_LOOK)
app.command(rich_help_panel=_LOOK)(trace.trace)


def main() -> None:
    """Run the command; every expected failure ends with a sentence and its exit code."""
    try:
        app()
    except CommandError as error:
        output.report(error, as_json="--json" in sys.argv)
        sys.exit(error.code)
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python must not complain when it closes the pipe.
        sys.stdout = sys.stderr = None
        sys.exit(Exit.FAILURE)


if __name__ == "__main__":
    main()
