"""What the checks found."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

POSITIONS: Final = "positions are gapless and in the order of commit"
TIMES: Final = "recorded times never go back"
CHAIN: Final = "the hash chain is whole"
DENSE: Final = "revisions are dense"
ONCE: Final = "acknowledged appends are there exactly once, where they were answered to be"
ABSENT: Final = "what was refused is absent, and nothing is there that nobody wrote"
UNKNOWN: Final = "appends of unknown outcome are there once or not at all, as a whole"
SAME: Final = "the same id gets the same answer for ever"
ORDER: Final = "appends and reads of a stream are in the order of real time"
READS: Final = "reads of a stream answer what the log holds"
SUBSCRIPTIONS: Final = "subscriptions are complete and in order"
FRESH: Final = "reads with a token are fresh, and those of one session never go back"
PROJECTION: Final = "the read model is the fold of the log"
TOLD: Final = "failures are told as what they are"

CHECKS: Final = (
    POSITIONS,
    TIMES,
    CHAIN,
    DENSE,
    ONCE,
    ABSENT,
    UNKNOWN,
    SAME,
    ORDER,
    READS,
    SUBSCRIPTIONS,
    FRESH,
    PROJECTION,
    TOLD,
)
_KEPT: Final = 10


@dataclass
class Findings:
    """Per check, how often it was applied, and what is wrong.

    Attributes:
        checked: how often each check was applied.
        wrong: how often each check failed.
        examples: the first of them, in words.
    """

    checked: Counter[str] = field(default_factory=Counter[str])
    wrong: Counter[str] = field(default_factory=Counter[str])
    examples: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    def expect(self, check: str, holds: object, wrong: str) -> bool:
        """Apply a check once; `wrong` says in words what is wrong if it does not hold. Answers whether it does."""
        self.checked[check] += 1
        if not holds:
            self.wrong[check] += 1
            examples = self.examples.setdefault(check, [])
            if len(examples) < _KEPT:
                examples.append(wrong)
        return bool(holds)

    @property
    def hold(self) -> bool:
        """Whether every check holds, each having been applied at all."""
        return not self.wrong

    def report(self) -> str:
        """One line per check, then what is wrong."""
        lines: list[str] = []
        for check in CHECKS:
            wrong, times = self.wrong[check], self.checked[check]
            verdict = f"{wrong:,} WRONG" if wrong else "holds" if times else "not applied"
            lines.append(f"  {verdict:>12}  {check} ({times:,})")
            lines += [f"                {example}" for example in self.examples.get(check, ())]
        return "\n".join(lines)
