"""RED (rate, errors, duration) per RPC method, as server and as client. Other modules keep their own metrics beside
what they measure.
"""

import time
from typing import Final

import grpc
from prometheus_client import Counter, Gauge, Histogram

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_seconds = Histogram(
    "almagest_rpc_seconds", "How long RPCs took, streams until their end.", ("role", "method"), buckets=_BUCKETS
)
_total = Counter("almagest_rpc_total", "RPCs that ended, by gRPC status.", ("role", "method", "code"))
_running = Gauge("almagest_rpc_running", "RPCs that run.", ("role", "method"))

SERVER: Final = "server"
CLIENT: Final = "client"


class RpcMetrics:
    """The metrics of one method in one role, with the children looked up once: a look-up by labels costs more than the
    count.
    """

    __slots__ = ("_codes", "_method", "_role", "_running", "_seconds")

    def __init__(self, role: str, method: str) -> None:
        self._role = role
        self._method = method
        self._seconds = _seconds.labels(role, method)
        self._running = _running.labels(role, method)
        self._codes: dict[grpc.StatusCode, Counter] = {}

    def begin(self) -> float:
        """An RPC begins; answers what `end` wants."""
        self._running.inc()
        return time.perf_counter()

    def end(self, began: float, code: grpc.StatusCode) -> float:
        """It ends; answers how many seconds it took."""
        took = time.perf_counter() - began
        self._running.dec()
        self._seconds.observe(took)
        counter = self._codes.get(code)
        if counter is None:
            counter = self._codes[code] = _total.labels(self._role, self._method, code.name)
        counter.inc()
        return took
