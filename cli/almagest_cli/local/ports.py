"""Who holds a port, and which ports are free."""

import errno
import socket
from collections.abc import Iterable

import psutil

from almagest_cli.local.errors import LocalError, PortTakenError
from almagest_cli.local.layout import GATEWAY, SERVICES, Ports

_CONNECT_SECONDS = 2.0


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


def free_ports() -> Ports:
    """A free port for everything that opens one, for systems side by side."""
    inner = [row.name for row in SERVICES if row.name != GATEWAY]
    sockets = [socket.socket() for _ in range(2 * len(inner) + 1)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        numbers = [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
    half = len(inner)
    return Ports(
        gateway=numbers[-1],
        grpc=dict(zip(inner, numbers[:half], strict=True)),
        http=dict(zip(inner, numbers[half : 2 * half], strict=True)),
    )


def _option(name: str) -> str:
    return "`almagest up --port N`" if name == GATEWAY else "`almagest up --base-port N`"
