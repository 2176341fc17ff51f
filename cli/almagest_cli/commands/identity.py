"""`almagest identity`: the certificates of the local system, their rotation, and who is refused."""

import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from cryptography import x509
from rich.table import Table

from almagest_cli import output
from almagest_cli.local.authority import LocalAuthority
from almagest_cli.local.daemons import write_private
from almagest_cli.local.layout import WORKLOADS, Places
from almagest_cli.local.rotation import InUse, Rotation
from almagest_cli.output import CommandError, Exit, Json, out
from almagest_cli.settings import places

app = typer.Typer(no_args_is_help=True, help="Certificates of the local system: who has which, rotate, refuse.")
_PAUSE_SECONDS = 0.2

Entry = Annotated[
    str, typer.Argument(help="A workload (worker), a SPIFFE id, or serial:HEX of one certificate of one.")
]


@app.command()
def status(*, as_json: Json = False) -> None:
    """Show every workload's certificate, the authorities that are trusted, and who is refused."""
    where, authority = _local()
    used = {said[0]: said[3] for said in InUse(where).each() if said is not None}
    authorities: list[dict[str, Any]] = [
        {
            "id": name,
            "signs": signs,
            "subject": certificate.subject.rfc4514_string(),
            "not_after": certificate.not_valid_after_utc.isoformat(),
        }
        for name, signs, certificate in authority.trust.authorities
    ]
    workloads = [_workload(authority, name, used) for name in (*WORKLOADS, "web")]
    denied = _entries(where)
    if as_json:
        answer = {"step": authority.trust.step, "authorities": authorities, "workloads": workloads, "denied": denied}
        output.print_json(answer)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("WORKLOAD", "SERIAL", "EXPIRES IN", "SIGNED BY", "IN USE"):
        table.add_column(title, no_wrap=True)
    for row in workloads:
        marks: dict[bool | None, str] = {None: "", True: "[green]yes[/]", False: "[yellow]not yet[/]"}
        in_use = marks[row["in_use"]]
        table.add_row(row["workload"], row["serial"], output.duration(row["seconds_left"]), row["issuer"], in_use)
    out.print(table)
    out.print()
    for one in authorities:
        out.print(f"{'signs  ' if one['signs'] else 'trusted'}  {one['subject']}, until {one['not_after'][:19]}")
    if authority.trust.step:
        out.print(f"A rotation of the authority is under way: {authority.trust.step}.")
    for entry in denied:
        out.print(f"[red]refused[/]  {entry}")


@app.command()
def rotate(
    *,
    authority: Annotated[
        bool, typer.Option("--authority", help="The authority too: publish, activate, taint, revoke.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Issue every certificate anew, now. Nothing restarts, and no call fails."""
    where, local = _local()
    if not authority:
        renewed = local.renew(WORKLOADS, all_now=True)
        if as_json:
            output.print_json({"renewed": renewed})
        else:
            out.print(f"Issued anew: {', '.join(renewed)}.")
        return
    rotation = Rotation(local, where)
    rotation.begin()
    steps = [local.trust.step]
    if not as_json:
        out.print(f"Authority: {steps[0]}")
    # The process that renews certificates may take the steps as well; whoever comes first does.
    while local.trust.step:
        # What it forgets may be what we look at.
        with suppress(FileNotFoundError):
            rotation.advance()
        if local.trust.step != steps[-1]:
            steps.append(local.trust.step)
            if not as_json:
                out.print(f"Authority: {steps[-1] or 'the old one is revoked'}")
        time.sleep(_PAUSE_SECONDS)
        local.trust.refresh()
    if as_json:
        output.print_json({"steps": [step or "revoked" for step in steps], "signs": local.trust.authorities[0][0]})


@app.command()
def deny(entry: Entry, *, reason: Annotated[str, typer.Option(help="For people, kept beside it.")] = "") -> None:
    """Refuse a workload, or one certificate of it: calls and streams end within a second, new ones are not answered."""
    where, local = _local()
    wanted = _entry(local, entry)
    with local.alone():
        lines = [line for line in _lines(where) if _said(line) != wanted]
        _write(where, [*lines, f"{wanted}  # {' '.join(reason.split())}" if reason else wanted])
    out.print(f"Refused: {wanted}")


@app.command()
def allow(entry: Entry) -> None:
    """Refuse it no more."""
    where, local = _local()
    wanted = _entry(local, entry)
    with local.alone():
        lines = _lines(where)
        if wanted not in map(_said, lines):
            raise CommandError(f"{wanted} is not refused.")
        _write(where, [line for line in lines if _said(line) != wanted])
    out.print(f"Refused no more: {wanted}")


def _local() -> tuple[Places, LocalAuthority]:
    where = places()
    if not where.authority.is_dir():
        raise CommandError("There is no system here.", code=Exit.UNREACHABLE, hint="`almagest up` starts one.")
    return where, LocalAuthority(where.authority)


def _workload(authority: LocalAuthority, name: str, used: dict[str, str]) -> dict[str, Any]:
    directory = authority.directory / "web" if name == "web" else authority.identity(name)
    try:
        certificate = x509.load_pem_x509_certificate((directory / "tls.crt").read_bytes())
    except OSError:
        return {"workload": name, "serial": "", "not_after": "", "seconds_left": 0.0, "issuer": "", "in_use": None}
    serial = f"{certificate.serial_number:x}"
    return {
        "workload": name,
        "serial": serial,
        "not_after": certificate.not_valid_after_utc.isoformat(),
        "seconds_left": max(0.0, (certificate.not_valid_after_utc - datetime.now(UTC)).total_seconds()),
        "issuer": certificate.issuer.rfc4514_string(),
        "in_use": used[name] == serial if name in used else None,
    }


def _entry(authority: LocalAuthority, given: str) -> str:
    if given.startswith("serial:"):
        try:
            return f"serial:{int(given.removeprefix('serial:'), 16):x}"
        except ValueError:
            raise CommandError(f"{given!r} is no serial number.", code=Exit.USAGE, hint="serial:7f3a...") from None
    wanted = given if given.startswith("spiffe://") else f"spiffe://{authority.trust_domain}/{given}"
    if wanted not in {f"spiffe://{authority.trust_domain}/{name}" for name in WORKLOADS}:
        raise CommandError(
            f"There is no workload {given!r}.", code=Exit.USAGE, hint=f"Name one of {', '.join(WORKLOADS)}."
        )
    return wanted


def _lines(where: Places) -> list[str]:
    try:
        return where.deny_list.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []


def _said(line: str) -> str:
    return line.partition("#")[0].strip()


def _entries(where: Places) -> list[str]:
    return [entry for line in _lines(where) if (entry := _said(line))]


def _write(where: Places, lines: list[str]) -> None:
    write_private(where.deny_list, "".join(f"{line}\n" for line in lines).encode())
