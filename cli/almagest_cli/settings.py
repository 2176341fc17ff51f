"""Where the client finds the gateway, its certificate authority and its own state."""

import os
from dataclasses import dataclass
from pathlib import Path

import orjson

from almagest_cli.local.layout import Places
from almagest_cli.output import CommandError


def places() -> Places:
    """The state directory: ALMAGEST_STATE, or `.almagest` where we stand."""
    return Places(Path(os.environ.get("ALMAGEST_STATE", ".almagest")).absolute())


@dataclass(frozen=True)
class ClientSettings:
    """What a client of the gateway must know.

    Attributes:
        url: of the gateway, without a slash at its end.
        ca: the file of certificates to trust; None: those that the machine trusts.
        session: the file that holds who is logged in.
        key: the file of an access key that signs requests in place of a session; None: a session it is.
    """

    url: str
    ca: Path | None
    session: Path
    key: Path | None = None

    @classmethod
    def read(cls) -> "ClientSettings":
        """From ALMAGEST_URL, ALMAGEST_CA and ALMAGEST_STATE; what is not set is what `almagest up` started."""
        where = places()
        local = _local_url(where)
        url = os.environ.get("ALMAGEST_URL", "").rstrip("/") or local
        if not url.startswith(("https://", "http://")):
            raise CommandError(f"ALMAGEST_URL is {url!r}.", hint="It must look like https://catalog.example.org.")
        ca = os.environ.get("ALMAGEST_CA")
        if ca:
            trusted = Path(ca)
            if not trusted.is_file():
                raise CommandError(f"ALMAGEST_CA names {ca}, which is no file.")
        else:
            trusted = where.ca if url == local and where.ca.is_file() else None
        key = os.environ.get("ALMAGEST_KEY")
        return cls(url=url, ca=trusted, session=where.session, key=Path(key) if key else None)


def _local_url(where: Places) -> str:
    try:
        return str(orjson.loads(where.description.read_bytes())["url"])
    except (OSError, ValueError, KeyError):
        return "https://localhost:8443"
