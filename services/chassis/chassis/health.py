"""`python -m chassis.health`: ends with 0 when the service beside it is well, and otherwise says why not.

For who can start a program but not ask over HTTP: the HEALTHCHECK of an image, an operator in a container. It reads the
same environment as the service, and asks its HTTP side, which asks the server's own gRPC health by mutual TLS; the
gateway it asks at its door. Nothing but the standard library is loaded: it is started every few seconds.
"""

import http.client
import os
import ssl
import sys
from collections.abc import Mapping

_SECONDS = 4.0
_PATH = "/healthz"


class NotWell(Exception):
    """The service does not answer, or answers that it cannot serve."""


def ask(environment: Mapping[str, str]) -> None:
    """See that the service that this environment describes is well.

    Raises:
        NotWell: It is not, or cannot be asked.
    """
    try:
        connection = _connection(environment)
        try:
            connection.request("GET", _PATH)
            answer = connection.getresponse()
            said = answer.read().decode(errors="replace")
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotWell(f"it cannot be asked: {error}") from error
    if answer.status != http.client.OK:
        raise NotWell(f"it answers {answer.status}: {said}")


def _connection(environment: Mapping[str, str]) -> http.client.HTTPConnection:
    plain = environment.get("ALMAGEST_HTTP_LISTEN")
    if plain:
        return http.client.HTTPConnection(*_address(plain), timeout=_SECONDS)
    listen, certificate = environment.get("ALMAGEST_LISTEN"), environment.get("ALMAGEST_TLS_CERTIFICATE")
    if not listen or not certificate:
        raise NotWell("neither ALMAGEST_HTTP_LISTEN nor ALMAGEST_LISTEN and ALMAGEST_TLS_CERTIFICATE are set")
    # The certificate itself is what is trusted: whoever issued it, and whatever its names, it is to be the one shown.
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return http.client.HTTPSConnection(*_address(listen), timeout=_SECONDS, context=context)


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), int(port)


if __name__ == "__main__":
    try:
        ask(os.environ)
    except NotWell as problem:
        sys.exit(f"not well: {problem}")
