import http.client
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson

_PAUSE_SECONDS = 0.1


class Probe:
    """Asks a service's `/readyz`.

    Args:
        port: on loopback.
        ca: what to trust, for the gateway; None: plain HTTP, as the services' inner sides speak.

    Attributes:
        problem: why the last attempt failed.
    """

    def __init__(self, port: int, *, ca: Path | None = None) -> None:
        self._port = port
        self._ca = ca
        self.problem = "not asked yet"

    def ready(self, *, timeout: float = 3) -> bool:
        """Whether the service says, within `timeout` seconds, that it is ready."""
        connection = None
        try:
            if self._ca is None:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout)
            else:
                context = ssl.create_default_context(cafile=self._ca)
                connection = http.client.HTTPSConnection("localhost", self._port, timeout=timeout, context=context)
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            body = answer.read(65536)
        except (OSError, http.client.HTTPException) as error:
            self.problem = f"{type(error).__name__}: {error}"
            return False
        finally:
            if connection is not None:
                connection.close()
        self.problem = f"it answers {answer.status} {_summary(body)}"
        return answer.status == http.client.OK

    def attempts(self, timeout: float, *, held_up: Callable[[], bool] = lambda: False) -> Iterator[int]:
        """Numbers of attempts, with a pause between them, until `timeout` seconds are over, counted from when the
        service is not held up any more.
        """
        until = time.monotonic() + timeout
        number = 0
        while time.monotonic() < until:
            yield number
            number += 1
            time.sleep(_PAUSE_SECONDS)
            if held_up():
                until = time.monotonic() + timeout


def _summary(body: bytes) -> str:
    try:
        return orjson.dumps(orjson.loads(body)).decode()[:500]
    except ValueError:
        return body.decode(errors="replace")[:500]
