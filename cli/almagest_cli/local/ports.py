"""Who holds a port, and which ports are free."""

import errno
import os
import secrets
import socket
import sys
from collections import deque
from collections.abc import Iterable, Mapping

import psutil

from almagest_cli.local.errors import LocalError, PortTakenError
from almagest_cli.local.layout import GATEWAY, SERVICES, Ports

_CONNECT_SECONDS = 2.0
_OUTSIDE_THE_EPHEMERAL_RANGE = range(15_000, 32_000)
_MOST_RESERVED = 256

_reserved: deque[int] = deque()


def require_free(name: str, ports: Iterable[int]) -> None:
    """See that a service can have its ports.

    Raises:
        PortTakenError: naming the port and the process that holds it.
    """
    for port in ports:
        # Asked by connecting: gRPC binds with SO_REUSEPORT, with which it would share the port with a stranger in
        # silence, and without which the remains of a killed server's connections would keep the port for a minute.
        with socket.socket() as caller:
            caller.settimeout(_CONNECT_SECONDS)
            taken = caller.connect_ex(("127.0.0.1", port)) != errno.ECONNREFUSED
        if taken:
            raise PortTakenError(
                f"{name} needs port {port}, which belongs to {holder(port)}. Stop it, or choose another port: "
                f"{_option(name)}."
            )
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except PermissionError as error:
                raise LocalError(
                    f"{name} may not open port {port}: those below 1024 are root's. Choose another: {_option(name)}."
                ) from error
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise


def holder(port: int) -> str:
    """The process that listens on a local port, in words."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return "another process"
    for connection in connections:
        if connection.laddr and connection.laddr[1] == port and connection.status == psutil.CONN_LISTEN:
            if connection.pid is None:
                return "another user's process"
            try:
                process = psutil.Process(connection.pid)
                command = " ".join(process.cmdline()) or process.name()
            except psutil.Error:
                return f"process {connection.pid}"
            return f"process {connection.pid} ({command[:120]})"
    return "another process"


def free_port() -> int:
    """A port that is free now, and that nobody else who asks here is given while this process lives and asks for few.

    Not one that the system offers (port 0): those are also what outgoing connections are given, so whoever opens one
    meanwhile takes it. These lie below that range.
    """
    while True:
        number = secrets.choice(_OUTSIDE_THE_EPHEMERAL_RANGE)
        if _reserve(number):
            return number


def _reserve(number: int) -> bool:
    """Whether a port is free and now ours. A name says so to others, which the kernel forgets with this process."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", number))
        except OSError:
            return False
    if sys.platform == "linux":
        name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            name.bind(f"\0almagest-port-{number}")
        except OSError:
            name.close()
            return False
        _reserved.append(name.detach())
        if len(_reserved) > _MOST_RESERVED:
            os.close(_reserved.popleft())
    return True


def free_ports(replicas: Mapping[str, int] | None = None) -> Ports:
    """A free port for everything that opens one, for systems side by side.

    Args:
        replicas: how many processes of a service there are to be, where not one.
    """
    inner = [row.name for row in SERVICES if row.name != GATEWAY]
    inner += [f"{name}-{number}" for name, count in (replicas or {}).items() for number in range(2, count + 1)]
    numbers: list[int] = []
    while len(numbers) < 2 * len(inner) + 1:
        if (number := free_port()) not in numbers:
            numbers.append(number)
    half = len(inner)
    return Ports(
        gateway=numbers[-1],
        grpc=dict(zip(inner, numbers[:half], strict=True)),
        http=dict(zip(inner, numbers[half : 2 * half], strict=True)),
    )


def free_usual_ports() -> Ports:
    """Free ports in the usual order, as a system has them that is told `--port` and `--base-port`."""
    while True:
        ports = Ports.usual(gateway=free_port(), base=secrets.choice(_OUTSIDE_THE_EPHEMERAL_RANGE))
        if all(_reserve(number) for name in ports.grpc for number in ports.of(name)):
            return ports


def _option(name: str) -> str:
    return "`almagest up --port N`" if name == GATEWAY else "`almagest up --base-port N`"
