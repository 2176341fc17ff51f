"""`backup`: all databases and archives at one moment of the log, made, checked and restored."""

import asyncio
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.table import Table

from almagest_cli import output
from almagest_cli.backups.manifest import Manifest
from almagest_cli.backups.programs import PostgresPrograms
from almagest_cli.backups.restoring import Restore, Restored, Wanted
from almagest_cli.backups.taking import Source, take
from almagest_cli.commands.local import local_errors
from almagest_cli.local.errors import LocalError
from almagest_cli.local.layout import AUTH
from almagest_cli.local.maintenance import Maintenance
from almagest_cli.local.system import System
from almagest_cli.output import CommandError, Exit, Json, err, out
from almagest_cli.settings import places

app = typer.Typer(help="Back up all databases and archives, and restore them.", no_args_is_help=True)

_Directory = Annotated[Path, typer.Argument(help="The directory of the backup.", show_default=False, file_okay=False)]


_Digest = Annotated[str, typer.Option(help="The digest that was printed when it was made, to be compared.")]


@app.command()
def make(directory: _Directory, *, as_json: Json = False) -> None:
    """Back up all databases and archives into a new directory, while the system runs.

    The key-encryption key is not in it: keep that elsewhere. Keep the digest that is printed, too: it proves later that
    the backup is this one.
    """
    if not places().description.is_file():
        raise CommandError("There is no system here.", code=Exit.UNREACHABLE, hint="`almagest up` starts one.")
    with local_errors():
        maintenance = Maintenance(System(places().state))
        with maintenance.server(alone=False) as databases:
            sources = [Source(name, row.module, databases.dsn(name)) for name, row in maintenance.sources().items()]
            made = asyncio.run(
                take(
                    sources,
                    directory.absolute(),
                    programs=_programs(maintenance),
                    archives=maintenance.archives,
                    key_id=_key_id(maintenance),
                    report=lambda name, size: None if as_json else err.print(f"[dim]{name}[/] {output.size(size)}"),
                )
            )
    _show(made, directory, as_json=as_json)


@app.command()
def check(directory: _Directory, *, digest: _Digest = "", as_json: Json = False) -> None:
    """See whether a backup is whole: every file there, as long as it was, and unchanged."""
    with local_errors():
        manifest = _checked(directory, digest)
    _show(manifest, directory, as_json=as_json)


@app.command()
def restore(
    directory: _Directory,
    *,
    digest: _Digest = "",
    at: Annotated[
        list[str] | None,
        typer.Option(help="End a shard of the log at an earlier position: SHARD:POSITION. May be repeated."),
    ] = None,
    time: Annotated[str, typer.Option(help="End the shards without --at as they were then, in RFC 3339.")] = "",
    replace: Annotated[bool, typer.Option("--replace", help="Rename databases that are there already.")] = False,
    as_json: Json = False,
) -> None:
    """Restore a backup into a system that is down, and prove that it is what was backed up.

    Nothing is served from it until the chain of every shard of the log was computed anew and ends as the backup says.
    When this is interrupted, the same command again begins anew.
    """
    with local_errors():
        manifest = _checked(directory, digest)
        key = places().key_encryption_key
        if not key.is_file():
            raise LocalError(
                f"The key-encryption key {manifest.key_id} is needed, and no backup holds it. Put it into {key}."
            )
        maintenance = Maintenance(System(places().state, shards=manifest.shards))
        with maintenance.server(alone=True) as databases:
            if (found := _key_id(maintenance)) != manifest.key_id:
                raise LocalError(
                    f"The key-encryption key in {key} is {found}, and the backup needs {manifest.key_id}. "
                    "Nothing was done."
                )
            work = Restore(
                manifest=manifest,
                directory=directory.absolute(),
                maintenance=maintenance,
                databases=databases,
                programs=_programs(maintenance),
                step=lambda said: None if as_json else err.print(f"[dim]{said}[/]"),
            )
            restored = work.run(Wanted(tuple(at or ()), time or None), replace=replace)
    _tell(restored, as_json=as_json)


def _checked(directory: Path, digest: str) -> Manifest:
    manifest = Manifest.read(directory)
    if digest and digest != manifest.digest:
        raise LocalError(f"This is another backup, or was changed: its digest is {manifest.digest}, not {digest}.")
    if faults := manifest.faults(directory):
        raise LocalError(f"The backup in {directory} is not whole: {'; '.join(faults)}. Use another one.")
    return manifest


def _programs(maintenance: Maintenance) -> PostgresPrograms:
    embedded = maintenance.embedded_programs
    return PostgresPrograms(embedded) if embedded is not None else PostgresPrograms.of_this_machine()


def _key_id(maintenance: Maintenance) -> str:
    return str(orjson.loads(maintenance.run(AUTH, "key-id").splitlines()[-1])["key_id"])


def _show(manifest: Manifest, directory: Path, *, as_json: bool) -> None:
    size = sum(one.bytes for one in (*manifest.databases, *manifest.archives))
    if as_json:
        output.print_json(
            {
                "directory": str(directory),
                "backup_id": manifest.backup_id,
                "made_at": manifest.made_at,
                "digest": manifest.digest,
                "key_id": manifest.key_id,
                "bytes": size,
                "log": [{"shard": one.shard, "position": one.position, "hash": one.hash} for one in manifest.log],
            }
        )
        return
    out.print(f"Backup {manifest.backup_id} of {manifest.made_at}, {output.size(size)}, is whole.")
    table = Table("Shard", "Position", "Hash", box=None, pad_edge=False)
    for one in manifest.log:
        table.add_row(str(one.shard), str(one.position), str(one.hash))
    out.print(table)
    out.print(f"  Digest      {manifest.digest}  (keep it elsewhere: restore --digest compares)")
    out.print(f"  Needs key   {manifest.key_id}  (the key-encryption key, which is not in it)")


def _tell(restored: Restored, *, as_json: bool) -> None:
    if as_json:
        output.print_json(
            {
                "log": restored.log,
                "replaced": restored.replaced,
                "forgotten": restored.forgotten,
                "redis_forgotten": restored.redis_forgotten,
            }
        )
        return
    out.print("[green]Restored.[/] Everybody has to log in again. `almagest up` starts it.")
    table = Table("Shard", "Position", "Hash", box=None, pad_edge=False)
    for one in restored.log:
        table.add_row(str(one["shard"]), str(one["position"]), one["hash"])
    out.print(table)
    for name, kept in restored.replaced.items():
        out.print(f"  {name} of before is kept as {kept}: drop it when you do not need it.")
    if not restored.redis_forgotten:
        out.print("  Empty your Redis (FLUSHDB) before you start: it remembers answers that are not true any more.")
    if restored.forgotten:
        out.print("[yellow]These people were forgotten after the backup was made, and are back. Forget them again:[/]")
        for user_id in restored.forgotten:
            out.print(f"  almagest privacy forget {user_id}")
