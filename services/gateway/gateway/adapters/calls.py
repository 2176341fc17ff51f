"""One call in the name of a person, by the deadline of the request."""

from typing import TypeVar

from chassis.deadlines import timeout_for
from grpc import aio

from gateway.adapters.auth import on_behalf_of
from gateway.application.ports import Person

LIMIT_SECONDS = 30.0
_Request = TypeVar("_Request")
_Answer = TypeVar("_Answer")


async def ask(method: aio.UnaryUnaryMultiCallable[_Request, _Answer], request: _Request, person: Person) -> _Answer:
    """Call a method of a service."""
    return await method(request, metadata=on_behalf_of(person), timeout=timeout_for(LIMIT_SECONDS))
