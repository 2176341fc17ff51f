"""`python -m chassis.health`, against servers of the two kinds that services have."""

import http.server
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from almagest_cli.local.authority import LocalAuthority
from chassis.health import NotWell, ask


@contextmanager
def serving(status: int, *, identity: Path | None = None) -> Iterator[int]:
    """Answers every question with a status; over TLS with an identity."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.end_headers()
            self.wfile.write(b"said so")

        def log_message(self, *_: object) -> None: ...

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    if identity is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(identity / "tls.crt", identity / "tls.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", ""])
def test_a_service_is_asked_at_its_http_side_wherever_it_listens(host: str) -> None:
    """By plain HTTP; an address that means all of them is asked at loopback."""
    with serving(200) as port:
        ask({"ALMAGEST_HTTP_LISTEN": f"{host}:{port}", "ALMAGEST_LISTEN": "127.0.0.1:1"})


def test_a_service_that_cannot_serve_is_not_well() -> None:
    """And why is passed on."""
    with serving(503) as port, pytest.raises(NotWell, match="503: said so"):
        ask({"ALMAGEST_HTTP_LISTEN": f"127.0.0.1:{port}"})
    with pytest.raises(NotWell, match="cannot be asked"):
        ask({"ALMAGEST_HTTP_LISTEN": f"127.0.0.1:{port}"})
    with pytest.raises(NotWell, match="ALMAGEST_HTTP_LISTEN"):
        ask({})


def test_the_gateway_is_asked_at_its_door_which_must_show_its_certificate(tmp_path: Path) -> None:
    """The one on file and no other, whatever name it is for."""
    authority = LocalAuthority(tmp_path)
    mine, others = authority.ensure("gateway"), authority.ensure("worker")
    with serving(200, identity=mine) as port:
        told = {"ALMAGEST_LISTEN": f"0.0.0.0:{port}", "ALMAGEST_TLS_CERTIFICATE": str(mine / "tls.crt")}
        ask(told)
        with pytest.raises(NotWell, match="CERTIFICATE_VERIFY_FAILED"):
            ask(told | {"ALMAGEST_TLS_CERTIFICATE": str(others / "tls.crt")})
