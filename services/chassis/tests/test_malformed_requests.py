"""Bytes that are no message are refused in the door, after the question who sent them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from chassis.errors import RemoteProblem

SERVICE = "/almagest.eventstore.v1.EventStoreService"
BODIES = [b"\xff\xff\xff\xff", b"\x0a\x04\x0a\x02\xff\xfe", b"\x0a\x7f", b"{}"]


@pytest.mark.parametrize("body", BODIES)
async def test_a_malformed_request_is_an_invalid_argument(
    serve: Callable[..., Any], issue: Callable[..., Path], body: bytes
) -> None:
    """Corrupt, not UTF-8, truncated, another format: one answer that tells nothing of our insides, and no call of the use case."""
    async with serve() as service:
        raw = service.channel(issue("gateway")).unary_unary(f"{SERVICE}/Append")
        with pytest.raises(RemoteProblem) as refused:
            await raw(body)
        assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refused.value.reason == "REQUEST_MALFORMED"
        assert service.servicer.calls == 0


async def test_a_malformed_request_for_a_stream_is_one_too(
    serve: Callable[..., Any], issue: Callable[..., Path]
) -> None:
    """The answer being a stream changes nothing."""
    async with serve() as service:
        raw = service.channel(issue("gateway")).unary_stream(f"{SERVICE}/Subscribe")
        with pytest.raises(RemoteProblem, match="REQUEST_MALFORMED"):
            await anext(aiter(raw(BODIES[0], timeout=5)))


async def test_who_may_not_call_is_not_told_that_the_request_is_malformed(
    serve: Callable[..., Any], issue: Callable[..., Path]
) -> None:
    """The policy comes first."""
    async with serve() as service:
        raw = service.channel(issue("worker")).unary_unary(f"{SERVICE}/Append")
        with pytest.raises(RemoteProblem, match="CALLER_NOT_ALLOWED"):
            await raw(BODIES[0])
