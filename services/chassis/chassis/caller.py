"""The workload that called: what the present RPC has proven by its certificate. And where the request came from in the
first place, which nobody has proven: the gateway has seen it, and it goes along for those who throttle or keep records.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from chassis.identity.spiffe import SpiffeId

ADDRESS_KEY: Final = "client-address"
AGENT_KEY: Final = "client-agent"
_LONGEST: Final = 200

_caller: ContextVar[SpiffeId] = ContextVar("caller")
_method: ContextVar[str] = ContextVar("method", default="")
_origin: ContextVar["Origin | None"] = ContextVar("origin", default=None)


@dataclass(frozen=True, slots=True)
class Origin:
    """The address of a client and what it says of itself; empty: not known."""

    address: str
    agent: str


def current_origin() -> Origin | None:
    """Where the present request came from, if that is known."""
    return _origin.get()


def set_origin(address: str, agent: str) -> None:
    """Say where the request came from, for the rest of this task and what it starts or calls."""
    _origin.set(Origin(_printable(address), _printable(agent)) if address or agent else None)


def _printable(text: str) -> str:
    """What may stand in metadata."""
    if text.isascii() and text.isprintable():
        return text[:_LONGEST]
    return "".join(character for character in text[:_LONGEST] if " " <= character <= "~")


def current_caller() -> SpiffeId:
    """The verified identity of the workload that called this RPC.

    Raises:
        LookupError: This is no RPC.
    """
    return _caller.get()


def current_method() -> str:
    """The full name of the present RPC; empty outside of one."""
    return _method.get()


def set_caller(caller: SpiffeId, method: str = "") -> None:
    """Say who called what, for the rest of this task and what it starts."""
    _caller.set(caller)
    _method.set(method)
