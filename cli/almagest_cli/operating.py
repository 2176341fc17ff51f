"""Calls to the services' own sides, over gRPC and mTLS, as the human at this machine: the `operator` of the local
authority, or the identity in ALMAGEST_OPERATOR_IDENTITY.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import orjson

from almagest_cli.local.authority import LocalAuthority
from almagest_cli.local.layout import OPERATOR
from almagest_cli.output import CommandError, Exit
from almagest_cli.settings import places

TRUST_DOMAIN = "almagest.internal"
_NOT_UP = "Is the system up? `almagest up` starts it; ALMAGEST_EVENT_STORE_TARGET and the like name one elsewhere."


@contextmanager
def channel(service: str) -> Generator[grpc.Channel]:
    """A channel to a service: of the local system, or to the target in ALMAGEST_<SERVICE>_TARGET.

    Raises:
        CommandError: It is not known where the service is; or, within the block, a call failed.
    """
    identity = os.environ.get("ALMAGEST_OPERATOR_IDENTITY")
    directory = Path(identity) if identity else _own()
    try:
        authority, certificate, key = ((directory / name).read_bytes() for name in ("ca.crt", "tls.crt", "tls.key"))
    except OSError as error:
        raise CommandError(f"The operator's identity in {directory} cannot be read: {error.strerror}.") from None
    credentials = grpc.ssl_channel_credentials(authority, key, certificate)
    options = [("grpc.ssl_target_name_override", f"{service}.{TRUST_DOMAIN}")]
    opened: Any = grpc.secure_channel(_target(service), credentials, options=options)
    with opened:
        try:
            yield opened
        except grpc.RpcError as error:
            raise _failure(error, service) from None


def _own() -> Path:
    where = places()
    if not where.description.is_file():
        raise CommandError("There is no system here.", code=Exit.UNREACHABLE, hint=_NOT_UP)
    return LocalAuthority(where.authority).ensure(OPERATOR)


def _target(service: str) -> str:
    named = os.environ.get(f"ALMAGEST_{service.replace('-', '_').upper()}_TARGET")
    if named:
        return named
    try:
        port = orjson.loads(places().description.read_bytes())["ports"]["grpc"][service]
    except (OSError, ValueError, KeyError):
        raise CommandError(f"It is not known where {service} is.", code=Exit.UNREACHABLE, hint=_NOT_UP) from None
    return f"127.0.0.1:{port}"


def _failure(error: Any, service: str) -> CommandError:
    code = error.code()
    if code is grpc.StatusCode.UNAVAILABLE:
        return CommandError(f"{service} cannot be reached.", code=Exit.UNREACHABLE, hint=_NOT_UP)
    refused = {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED}
    return CommandError(
        f"{service}: {error.details()}",
        code=Exit.FORBIDDEN if code in refused else Exit.FAILURE,
        details={"code": code.name},
    )
