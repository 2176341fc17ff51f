"""Values that may be used and never shown.

A password or its hash leaks through what nobody wrote on purpose: a dataclass's repr in a traceback, a row turned into
a dict for a log line, a pickle in a cache. Here every one of those ways ends in a fixed text or an error, and the one
way to the value has a name that can be searched for.
"""

import hmac
from typing import NoReturn


class Concealed:
    """A text that only `reveal` shows, without a `__dict__`, never pickled or copied, compared in constant time."""

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        self.__value = value

    def reveal(self) -> str:
        """The text."""
        return self.__value

    def __repr__(self) -> str:
        return f"{type(self).__name__}(concealed)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Concealed) or type(other) is not type(self):
            return NotImplemented
        return hmac.compare_digest(self.__value.encode(), other.__value.encode())

    __hash__ = None  # type: ignore[assignment] # a hash of the text would be a way to the text

    def __reduce_ex__(self, protocol: object, /) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is never serialised")


class Password(Concealed):
    """A password as its person typed it, normalised to NFKC."""

    __slots__ = ()


class PasswordHash(Concealed):
    """An argon2id hash in PHC string format."""

    __slots__ = ()
