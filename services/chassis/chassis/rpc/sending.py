"""What the other side has answered outlasts a sending that fails of it."""

import asyncio
import contextlib
from typing import Any

from grpc._cython import cygrpc

_ANSWER_SECONDS = 1.0


def keeping_the_answer(call: Any) -> Any:
    """A call of gRPC for Python to which we stream, that ends with what the other side said.

    By itself (grpcio 1.85, grpc/grpc#36066) it ends as an internal error when a message is being sent as the other side
    refuses or its time is over: the failed sending is told over the answer that was there. Neither is public, so this
    stands in for the part of the call that both go through.
    """
    call._cython_call = _Kept(call._cython_call)  # noqa: SLF001
    return call


class _Kept:
    def __init__(self, call: Any) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    async def send_serialized_message(self, message: bytes) -> None:
        try:
            await self._call.send_serialized_message(message)
        except cygrpc.InternalError:  # pyright: ignore[reportAttributeAccessIssue]
            # What could not be sent at all may have no answer.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await self._call.status()
            raise

    def set_internal_error(self, error: str) -> None:
        if not self._call.done():
            self._call.set_internal_error(error)
