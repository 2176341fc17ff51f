"""Identities from a SPIFFE Workload API: a real one over a unix socket, as an agent serves it."""

import asyncio
import queue
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from chassis.identity.certificate import InvalidIdentity
from chassis.identity.files import FileIdentitySource
from chassis.identity.workload_api import WorkloadApiIdentitySource
from cryptography import x509
from cryptography.hazmat.primitives import serialization

# Generated from the public proto of the SPIFFE Workload API.
from spiffe._proto import workload_pb2, workload_pb2_grpc

TRUST_DOMAIN = "almagest.internal"


class Agent(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    """Gives everyone who asks the present SVIDs, and each later set as it comes."""

    def __init__(self) -> None:
        self._streams: list[queue.Queue[Any]] = []
        self._present: Any = None

    def FetchX509SVID(self, _request: Any, context: Any) -> Iterator[Any]:
        assert ("workload.spiffe.io", "true") in context.invocation_metadata()
        mine: queue.Queue[Any] = queue.Queue()
        self._streams.append(mine)
        if self._present is not None:
            yield self._present
        context.add_callback(lambda: mine.put(None))
        while (message := mine.get()) is not None:
            yield message

    def give(self, *directories: Path) -> None:
        svids = []
        for directory in directories:
            leaf = x509.load_pem_x509_certificates((directory / "tls.crt").read_bytes())[0]
            key = serialization.load_pem_private_key((directory / "tls.key").read_bytes(), None)
            bundle = x509.load_pem_x509_certificates((directory / "ca.crt").read_bytes())
            uris = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
                x509.UniformResourceIdentifier
            )
            svids.append(
                workload_pb2.X509SVID(
                    spiffe_id=uris[0] if uris else "",
                    x509_svid=leaf.public_bytes(serialization.Encoding.DER),
                    x509_svid_key=key.private_bytes(
                        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                    ),
                    bundle=b"".join(one.public_bytes(serialization.Encoding.DER) for one in bundle),
                )
            )
        self._present = workload_pb2.X509SVIDResponse(svids=svids)
        for stream in self._streams:
            stream.put(self._present)

    def hang_up(self) -> None:
        streams, self._streams = self._streams, []
        for stream in streams:
            stream.put(None)


@pytest.fixture
def agent() -> Iterator[tuple[Agent, str]]:
    # A unix socket's path is short, pytest's directories are not.
    home = Path(tempfile.mkdtemp(prefix="almagest-"))
    servicer = Agent()
    server = grpc.server(ThreadPoolExecutor(8))
    workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{home}/agent.sock")
    server.start()
    try:
        yield servicer, f"unix://{home}/agent.sock"
    finally:
        servicer.hang_up()
        server.stop(0).wait()
        shutil.rmtree(home)


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - of what another thread brings there is no event
            await asyncio.sleep(0.01)


async def test_each_svid_that_is_pushed_is_taken_into_use_on_the_event_loop(
    agent: tuple[Agent, str], issue: Callable[..., Path], tmp_path: Path
) -> None:
    """The first at start, each later one at once, told to subscribers on the loop, and written for the drivers."""
    servicer, socket = agent
    servicer.give(issue("worker"))
    source = WorkloadApiIdentitySource(socket, TRUST_DOMAIN, service="worker", directory=tmp_path / "mine")
    first = source.current()
    assert str(first.spiffe_id) == "spiffe://almagest.internal/worker"
    told: list[tuple[int, asyncio.AbstractEventLoop]] = []
    source.subscribe(lambda identity: told.append((identity.serial, asyncio.get_running_loop())))
    watch = asyncio.create_task(source.watch(60))
    try:
        servicer.give(issue("worker"))
        await _until(lambda: source.current() != first)
        second = source.current()
        assert told == [(second.serial, asyncio.get_running_loop())]
        written = FileIdentitySource(tmp_path / "mine", TRUST_DOMAIN, service="worker").current()
        assert (written.serial, written.trust_bundle) == (second.serial, second.trust_bundle)
        servicer.hang_up()
        servicer.give(issue("worker"))
        await _until(lambda: source.current() != second)
    finally:
        watch.cancel()
        source.close()
        await asyncio.gather(watch, return_exceptions=True)


async def test_of_several_svids_ours_is_taken(agent: tuple[Agent, str], issue: Callable[..., Path]) -> None:
    """An agent may know a workload by several ids; the default is not necessarily ours."""
    servicer, socket = agent
    servicer.give(issue("gateway"), issue("worker"))
    source = WorkloadApiIdentitySource(socket, TRUST_DOMAIN, service="worker")
    source.close()
    assert source.current().spiffe_id.service == "worker"


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"dns": []}, r"lacks the DNS name worker\.almagest\.internal.*SPIRE: -dns worker\.almagest\.internal"),
        ({"uris": ["spiffe://almagest.internal/gateway"]}, "none of the SVIDs is spiffe://almagest.internal/worker"),
        ({"uris": ["spiffe://almagest.internal/worker", "spiffe://almagest.internal/gateway"]}, "URI SAN"),
        ({"uris": ["spiffe://elsewhere.example/worker"]}, "offered: spiffe://elsewhere.example/worker"),
        ({"lifetime": -1}, "expired"),
    ],
    ids=["no DNS name", "another service", "two URIs", "another trust domain", "expired"],
)
async def test_a_service_does_not_start_on_what_is_no_identity_of_it_and_says_why(
    agent: tuple[Agent, str], issue: Callable[..., Path], odd: dict[str, Any], said: str
) -> None:
    """The rules are those of files, and the sentence says what to mend."""
    servicer, socket = agent
    servicer.give(issue("worker", **odd))
    with pytest.raises(InvalidIdentity, match=said):
        WorkloadApiIdentitySource(socket, TRUST_DOMAIN, service="worker", first_seconds=0.5)


async def test_a_bad_svid_leaves_the_good_one_in_use_until_a_better_comes(
    agent: tuple[Agent, str], issue: Callable[..., Path]
) -> None:
    """What cannot even be parsed makes the library give up its stream; it is begun again."""
    servicer, socket = agent
    servicer.give(issue("worker"))
    source = WorkloadApiIdentitySource(socket, TRUST_DOMAIN, service="worker")
    first = source.current()
    watch = asyncio.create_task(source.watch(0.1))
    try:
        servicer.give(issue("worker", uris=[]))
        servicer.give(issue("worker", dns=[]))
        servicer.give(issue("worker"))
        await _until(lambda: source.current() != first)
    finally:
        watch.cancel()
        source.close()
        await asyncio.gather(watch, return_exceptions=True)
