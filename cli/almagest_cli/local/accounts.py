"""Whom servers run as, and where they may keep their files.

Postgres refuses to run as root, and root is what containers and many build machines give us. Started as root, the
embedded servers run as `nobody`, who often reaches neither the state directory (below /root) nor the programs (a
`.venv` below /root). A unix socket, besides, has a path of at most 107 bytes, less than many a checkout's. Both end
in a private directory under /var/tmp, named by a hash of the directory that it stands in for, so that two checkouts
never meet.
"""

import functools
import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from almagest_cli.local.errors import LocalError

SOCKET_PATH_LIMIT = 103
"""Bytes that a unix socket's path may have: 103 on macOS, 107 on Linux."""

_SPARE = Path("/var/tmp")  # noqa: S108 - survives a reboot as state must; directories below it are made private and checked to be ours


@dataclass(frozen=True)
class Account:
    """An unprivileged user of this machine."""

    name: str
    uid: int
    gid: int


class RunAs(TypedDict, total=False):
    """The arguments of `subprocess` that give up root's rights."""

    user: int
    group: int
    extra_groups: list[int]


def run_as(account: Account | None) -> RunAs:
    """The arguments of `subprocess` that run a program as the account; None means ourselves."""
    return {} if account is None else {"user": account.uid, "group": account.gid, "extra_groups": []}


def server_account() -> Account | None:
    """The account that embedded servers run as: `nobody` when we are root, otherwise None, meaning ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise LocalError(
            "Postgres refuses to run as root, and this machine has no user 'nobody' to run it as. "
            "Run almagest as an ordinary user."
        ) from None
    return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)


def make_directory(path: Path, *, account: Account | None = None) -> Path:
    """Make a private directory of the account (default: ours), for its eyes only."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    if account is not None:
        os.chown(path, account.uid, account.gid)
    path.chmod(0o700)
    return path


def make_passage(path: Path) -> Path:
    """Make a directory of ours which the server account may pass through, but not list. What it holds must be private
    by itself.
    """
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o711 if os.geteuid() == 0 else 0o700)
    return path


def server_home(directory: Path, account: Account | None) -> Path:
    """Where a server that belongs to the directory keeps its data: there, or in its stand-in when the account cannot
    get there.
    """
    make_passage(directory)
    if account is None or _allowed(account, "-x", directory):
        return directory
    return stand_in(directory)


def socket_home(home: Path, *, longest_name: str) -> Path:
    """Where a server's socket goes, such that its path is not too long: in its home, or in the home's stand-in."""
    inside = home / "run"
    if len(os.fsencode(inside / longest_name)) <= SOCKET_PATH_LIMIT:
        return inside
    return stand_in(home) / "run"


def stand_in(directory: Path) -> Path:
    """The private directory under /var/tmp that stands in for the directory, made if it is not there."""
    path = _stand_in_path(directory)
    _own(path)
    return make_passage(path)


def remove(directory: Path) -> None:
    """Remove the directory and what stands in for it."""
    for path in (_stand_in_path(directory), directory):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


# Asked once: trying a program as another user forks this process, threads and all, and where gRPC runs in it, as it
# does in tests, its handlers of a fork now and then crash the child.
@functools.cache
def reachable_tree(root: Path, parts: tuple[str, ...], probe: str, account: Account | None) -> Path:
    """The directory from which the account can run programs: `root`, or a copy of its `parts` when the account cannot
    run `root/probe`.
    """
    if account is None or _runs(account, root / probe):
        return root
    program = (root / probe).stat()
    identity = f"{root}\0{program.st_size}\0{program.st_mtime_ns}".encode()
    copy = _SPARE / f"almagest-programs-{hashlib.blake2b(identity, digest_size=8).hexdigest()}"
    if not copy.exists():
        with tempfile.TemporaryDirectory(prefix="almagest-programs-", dir=_SPARE) as scratch:
            fresh = Path(scratch, "tree")
            for part in parts:
                shutil.copytree(root / part, fresh / part, symlinks=True)
            fresh.chmod(0o755)
            try:
                fresh.rename(copy)
            except OSError:
                if not copy.is_dir():
                    raise
    _own(copy)
    if not _runs(account, copy / probe):
        raise LocalError(
            f"The user {account.name!r} cannot run {copy / probe}. Is {_SPARE} mounted noexec? "
            "Run almagest as an ordinary user."
        )
    return copy


def _stand_in_path(directory: Path) -> Path:
    digest = hashlib.blake2b(os.fsencode(directory.absolute()), digest_size=8).hexdigest()
    return _SPARE / f"almagest-{digest}"


def _own(path: Path) -> None:
    """Make sure that a directory with a name that others can guess is ours and no link: /var/tmp is everyone's."""
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise LocalError(f"{path} belongs to someone else. Remove it, then try again.")


def _allowed(account: Account, permission: str, path: Path) -> bool:
    return _succeeds(account, ["test", permission, str(path)])


def _runs(account: Account, program: Path) -> bool:
    return _succeeds(account, [str(program), "--version"])


def _succeeds(account: Account, command: list[str]) -> bool:
    try:
        done = subprocess.run(command, cwd="/", capture_output=True, check=False, timeout=30, **run_as(account))
    except PermissionError:
        return False
    return done.returncode == 0


def package_directory(package: str) -> Path:
    """Where an installed package's files are, without importing it: the wheels of the servers do and warn of things
    at import.

    Raises:
        LocalError: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise LocalError(f"The package {package!r} is not installed. Run `make up`, or `pip install almagest`.")
    return Path(next(iter(spec.submodule_search_locations)))
