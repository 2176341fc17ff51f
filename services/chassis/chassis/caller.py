"""The workload that called: what the present RPC has proven by its certificate."""

from contextvars import ContextVar

from chassis.identity.spiffe import SpiffeId

_caller: ContextVar[SpiffeId] = ContextVar("caller")


def current_caller() -> SpiffeId:
    """The verified identity of the workload that called this RPC.

    Raises:
        LookupError: This is no RPC.
    """
    return _caller.get()


def set_caller(caller: SpiffeId) -> None:
    """Say who called, for the rest of this task and what it starts."""
    _caller.set(caller)
