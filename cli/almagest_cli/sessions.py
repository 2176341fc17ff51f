"""Who is logged in at this command line."""

import contextlib
import fcntl
from collections.abc import Generator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from almagest_cli.local.daemons import write_private


@dataclass(frozen=True)
class Session:
    """A session at one gateway. Its tokens are as good as a password until they end."""

    url: str
    email: str
    access_token: str
    expires_at: str
    refresh_token: str
    session_expires_at: str
    private_key: str = ""
    """Of the key that the tokens are bound to; empty: to none, whoever has them can use them."""

    def __repr__(self) -> str:
        """Without the tokens."""
        return f"Session(url={self.url!r}, email={self.email!r}, expires_at={self.expires_at!r})"

    @classmethod
    def of(cls, answer: dict[str, Any], *, url: str, email: str, private_key: str = "") -> "Session":
        """From what the gateway answers to a log-in or a refresh."""
        names = ("access_token", "expires_at", "refresh_token", "session_expires_at")
        return cls(url=url, email=email, private_key=private_key, **{name: str(answer[name]) for name in names})

    def seconds_left(self) -> float:
        """How long the access token is good for; negative when it has expired."""
        return (datetime.fromisoformat(self.expires_at) - datetime.now(UTC)).total_seconds()


class SessionFile:
    """The session, in a file that only we can read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, url: str) -> Session | None:
        """The session at a gateway, or None. A session is never shown to another gateway than its own."""
        try:
            content = orjson.loads(self._path.read_bytes())
            content.setdefault("private_key", "")
            session = Session(**{field.name: str(content[field.name]) for field in fields(Session)})
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return session if session.url == url else None

    def save(self, session: Session) -> None:
        """Keep the session for later commands."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(self._path, orjson.dumps(asdict(session)))

    def forget(self) -> None:
        """Nobody is logged in any more."""
        self._path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def exclusively(self) -> Generator[None]:
        """Hold the session against other commands: a refresh token is good once, its second use ends the session."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
