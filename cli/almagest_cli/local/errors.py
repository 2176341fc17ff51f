class LocalError(Exception):
    """Something on this machine keeps the system from running; the text says what, and what to do about it."""


class PortTakenError(LocalError):
    """A port that we need belongs to another process, which the text names."""


class ProcessDiedError(LocalError):
    """A process ended while it was being started; the text holds the last lines of its log."""


class NotReadyError(LocalError):
    """A process runs, but did not become ready in time."""
