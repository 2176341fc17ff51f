"""Certificates are issued anew while everything runs: nothing restarts, nobody notices."""

import asyncio
import hashlib
import ssl
from urllib.parse import urlsplit

import pytest
from harness.running import Reached
from storm.load import Load

from .release import DOOR_PORT, GRPC_PORT, ROOT, SERVICES, Release, run, until

pytestmark = pytest.mark.timeout(1200)
_TAKEN_UP_SECONDS = 300
"""The kubelet looks at Secrets every minute or so, the services at their files every second."""

# What a server shows who it is before it asks the same, so no certificate is needed to see it.
_SHOWN = """
import hashlib, socket, ssl, sys
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.set_alpn_protocols(["h2"])
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5) as plain:
    with context.wrap_socket(plain) as connection:
        print(hashlib.sha256(connection.getpeercert(binary_form=True)).hexdigest())
"""


def shown(release: Release) -> dict[str, str]:
    """From the pods of all services to the certificate that each shows now."""
    return {
        pod["metadata"]["name"]: release.python(
            pod, _SHOWN, str(DOOR_PORT if service == "gateway" else GRPC_PORT)
        ).strip()
        for service in SERVICES
        for pod in release.pods(service)
    }


def shown_at_the_door(reached: Reached) -> str:
    address = urlsplit(reached.url)
    certificate = ssl.get_server_certificate((address.hostname or "", address.port or 443), ca_certs=str(reached.ca))
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate)).hexdigest()


async def test_every_certificate_is_replaced_and_nobody_notices(
    release: Release, two_of_each: None, load: Load, reached: Reached
) -> None:
    """All pods show a new one within minutes, and are the same pods as before; no request fails meanwhile."""
    before, at_the_door, lives = shown(release), shown_at_the_door(reached), release.lives()

    def rotate() -> None:
        run(str(ROOT / "k8s/rotate-certificates.sh"), release.namespace, within=120)
        until(
            lambda: [pod for pod, certificate in shown(release).items() if before[pod] == certificate],
            lambda unchanged: not unchanged,
            within=_TAKEN_UP_SECONDS,
            every=5,
        )

    await load.run_while(asyncio.to_thread(rotate))
    assert release.lives() == lives
    assert shown_at_the_door(reached) != at_the_door
    assert not load.failures, load.failures[:20]
