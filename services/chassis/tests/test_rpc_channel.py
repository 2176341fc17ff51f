"""What a channel promises beside its calls: a service that comes back is soon found, and no stream runs far ahead of its reader."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import dns.message
import dns.rdatatype
import dns.rrset
import pytest
from almagest.eventstore.v1 import event_pb2, event_store_pb2, event_store_pb2_grpc
from chassis.errors import RemoteProblem
from chassis.identity.files import FileIdentitySource
from chassis.rpc.channel import Channel

ServiceFactory = Callable[..., Any]
REQUEST = event_store_pb2.GetShardMapRequest()
PIECE = event_store_pb2.ReadAllResponse(events=[event_pb2.RecordedEvent(payload=b"x" * 64_000)])


async def test_a_service_that_is_away_is_looked_for_as_often_after_long_as_at_first(
    serve: ServiceFactory, issue: Callable[..., Any]
) -> None:
    """So that it is found as soon as it is back. Somebody else, who hangs up, stands for the address without a service."""
    tries: list[float] = []
    loop = asyncio.get_running_loop()

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tries.append(loop.time())
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as nobody:
        port = nobody.sockets[0].getsockname()[1]
        source = FileIdentitySource(issue("gateway"), "almagest.internal")
        async with Channel(f"127.0.0.1:{port}", service="event-store", identity=source) as channel:
            stub: Any = event_store_pb2_grpc.EventStoreServiceStub(channel)
            until = loop.time() + 5
            while loop.time() < until:
                with contextlib.suppress(RemoteProblem):
                    await stub.GetShardMap(REQUEST)
                await asyncio.sleep(0.02)
    # By itself gRPC would try three times: after 1, 1.6 and 2.56 s.
    assert len(tries) > 6


class Names(asyncio.DatagramProtocol):
    """A name server that knows one address for every name."""

    def __init__(self, address: str) -> None:
        self.address = address

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query, recursion_available=True)
        (question,) = query.question
        if question.rdtype == dns.rdatatype.A:
            answer.answer.append(dns.rrset.from_text(question.name, 1, "IN", "A", self.address))
        self._transport.sendto(answer.to_wire(), addr)


async def test_a_service_that_is_at_another_address_now_is_found_there(
    serve: ServiceFactory, issue: Callable[..., Any]
) -> None:
    """Its name is asked for again as soon as the address that was known leads nowhere, as after a pod has been replaced."""
    loop = asyncio.get_running_loop()
    async with serve() as service:
        transport, names = await loop.create_datagram_endpoint(lambda: Names("127.0.0.9"), ("127.0.0.1", 0))
        target = f"dns://127.0.0.1:{transport.get_extra_info('sockname')[1]}/service.test:{service.bound.grpc_port}"
        source = FileIdentitySource(issue("gateway"), "almagest.internal")
        async with Channel(target, service="event-store", identity=source) as channel:
            stub: Any = event_store_pb2_grpc.EventStoreServiceStub(channel)
            with pytest.raises(RemoteProblem):
                await stub.GetShardMap(REQUEST)
            names.address = "127.0.0.1"
            until, found = loop.time() + 10, False
            while not found and loop.time() < until:
                with contextlib.suppress(RemoteProblem):
                    await stub.GetShardMap(REQUEST)
                    found = True
                await asyncio.sleep(0.05)
        transport.close()
    assert found


async def test_a_connection_that_is_made_slowly_is_made(serve: ServiceFactory, issue: Callable[..., Any]) -> None:
    """A service on a machine that has too much to do takes its time over the handshake; giving up on it each time would
    keep it away for as long as that lasts.
    """
    async with serve() as service:

        async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while piece := await reader.read(65_536):
                await asyncio.sleep(0.4)
                writer.write(piece)

        async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            answers, requests = await asyncio.open_connection("127.0.0.1", service.bound.grpc_port)
            await asyncio.gather(slowly(reader, requests), slowly(answers, writer), return_exceptions=True)
            requests.close()
            writer.close()

        async with await asyncio.start_server(between, "127.0.0.1", 0) as proxy:
            port = proxy.sockets[0].getsockname()[1]
            source = FileIdentitySource(issue("gateway"), "almagest.internal")
            async with Channel(f"127.0.0.1:{port}", service="event-store", identity=source) as channel:
                async with asyncio.timeout(15):
                    await channel.channel_ready()


async def test_a_stream_whose_reader_stops_is_not_fetched_far_ahead(
    serve: ServiceFactory, issue: Callable[..., Any]
) -> None:
    """However quickly it was read before, and however much there is."""
    async with serve() as service:
        sent = 0

        async def endless(_request: Any, context: Any) -> None:
            nonlocal sent
            while True:
                await context.write(PIECE)
                sent += 1

        service.servicer.behaviour = endless
        # The servicer's own stream yields first and then does as it is told: with writes of its own.
        call = service.stub(issue("gateway")).Subscribe(event_store_pb2.SubscribeRequest())
        for _ in range(1_000):
            await call.read()
        before = sent
        # Until nothing is sent any more.
        while True:
            seen = sent
            await asyncio.sleep(0.3)
            if sent == seen:
                break
        ahead = (sent - before) * 64_000
        call.cancel()
        assert ahead < 2_000_000
