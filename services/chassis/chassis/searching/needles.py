"""What is searched for."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

_SHORTEST = 2


@dataclass(slots=True)
class Found:
    """How far the search of one store is."""

    store: str
    total: int
    searched: int = 0
    findings: int = 0
    mentions: int = 0


@dataclass(frozen=True, slots=True)
class Needles:
    """Texts of which each occurrence is a finding, and words of which each is a mention only: a first name may be
    anyone's, and a word of the catalog.
    """

    findings: Sequence[str] = field(repr=False)
    mentions: Sequence[str] = field(repr=False)

    def forms(self, texts: Iterable[str]) -> list[bytes]:
        """The bytes that texts may stand as in a store of bytes: as they are, in lower and upper case, and as JSON
        writes what is not ASCII.
        """
        cased = {form for text in texts for form in (text, text.lower(), text.upper()) if len(text) >= _SHORTEST}
        return sorted({form.encode() for form in cased} | {json.dumps(form)[1:-1].encode() for form in cased})

    def patterns(self) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
        """What finds findings and mentions in bytes, in any case of ASCII; mentions as words only."""
        return _any(self.forms(self.findings)), _any(self.forms(self.mentions), words=True)

    @property
    def longest(self) -> int:
        """The length of the longest form: how far pieces of a file must overlap."""
        return max(map(len, (*self.forms(self.findings), *self.forms(self.mentions))), default=1)

    def count(self, content: bytes, found: Found) -> None:
        """Count one thing that may hold needles: once, whatever it holds how often."""
        findings, mentions = self.patterns()
        if findings.search(content):
            found.findings += 1
        elif mentions.search(content):
            found.mentions += 1


def _any(forms: Sequence[bytes], *, words: bool = False) -> re.Pattern[bytes]:
    if not forms:
        return re.compile(rb"(?!)")
    either = b"|".join(map(re.escape, forms))
    # Beside a letter of another alphabet a word is none; in UTF-8 those are bytes above 127.
    edge = rb"(?<![\w\x80-\xff])(?:%b)(?![\w\x80-\xff])" if words else rb"(?:%b)"
    return re.compile(edge % either, re.IGNORECASE)
