"""Free ports, which several ask for at once."""

import subprocess
import sys
from itertools import pairwise

from almagest_cli.local import ports
from almagest_cli.local.layout import HTTP_OFFSET

ASKING = """
from almagest_cli.local import ports
ports._OUTSIDE_THE_EPHEMERAL_RANGE = range(31_900, 31_950)
print(*(ports.free_port() for _ in range(15)))
"""


def test_no_two_are_given_the_same(monkeypatch):
    """Neither here nor in another process, though nobody listens yet."""
    monkeypatch.setattr(ports, "_OUTSIDE_THE_EPHEMERAL_RANGE", range(31_900, 31_950))
    ours = [ports.free_port() for _ in range(15)]
    asked = subprocess.run([sys.executable, "-c", ASKING], capture_output=True, text=True, check=True, timeout=60)
    assert len({*ours, *map(int, asked.stdout.split())}) == 30


def test_those_in_the_usual_order_are_all_free():
    """One after the other, and the HTTP sides above."""
    found = ports.free_usual_ports()
    assert all(later == earlier + 1 for earlier, later in pairwise(sorted(found.grpc.values())))
    assert found.http == {name: port + HTTP_OFFSET for name, port in found.grpc.items()}
    for name in ("gateway", *found.grpc):
        ports.require_free(name, found.of(name))
