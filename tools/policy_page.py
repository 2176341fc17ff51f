"""Write docs/policy.md from the services' policies, or with --check say whether it is up to date.

The tables are the ones that the services are started with, so the page says what holds and not what somebody meant.
"""

import importlib
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chassis.policy import ANY_WORKLOAD, CHASSIS_POLICY, Person, Policy, Rule

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "policy.md"
SERVICES = ("auth", "catalog-command", "catalog-query", "event-store", "worker")
CALLERS = ("gateway", *SERVICES, "operator")

INTRODUCTION = """# Who may call what

Between services everything is denied but what stands here. The caller is who its certificate proves (one SPIFFE id of
our trust domain, not expired, not on the [deny list](operations/identity.md)); the person is who the transaction token
proves, with the scopes that the token carries. A method without a row keeps its service from starting. This page is
written by `make docs` from the tables that the services start with; `make generated` fails when it is behind them.

Person: **required**: the call carries a transaction token. **per item**: each item of the request carries its own,
and an item without one is refused by itself. **none**: the method is about no person, or is how one is found out.
Tokens of: for which workload auth must have made the token; it is refused in anybody else's hands. Where others than
the caller stand, the caller passes on what it was asked with.
Scopes are those of every call; what a use case asks beyond them (one's own job, one's own session) it asks itself.
"""


def policies() -> Mapping[str, Policy]:
    """The policy of each service."""
    found: dict[str, Policy] = {}
    for service in SERVICES:
        module: Any = importlib.import_module(f"{service.replace('-', '_')}.bootstrap")
        found[service] = module.POLICY
    return found


def page(tables: Mapping[str, Policy]) -> str:
    """The page for these policies.

    Raises:
        SystemExit: a rule names a caller that there is not.
    """
    lines = [INTRODUCTION]
    for service, policy in {**tables, "every service": CHASSIS_POLICY}.items():
        lines.append(f"## {service}\n")
        by_interface: defaultdict[str, dict[str, Rule]] = defaultdict(dict)
        for path, rule in policy.items():
            interface, _, method = path.lstrip("/").partition("/")
            by_interface[interface][method] = rule
        for interface, rules in sorted(by_interface.items()):
            lines.append(f"`{interface}`\n")
            lines.append(f"| method | {' | '.join(CALLERS)} | person | scopes | tokens of |")
            lines.append(f"| --- | {' | '.join(':-:' for _ in CALLERS)} | --- | --- | --- |")
            lines += [_row(method, rule) for method, rule in sorted(rules.items())]
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _row(method: str, rule: Rule) -> str:
    strangers = (rule.callers | rule.tokens_of) - {*CALLERS, ANY_WORKLOAD}
    if strangers:
        raise SystemExit(f"the rule of {method} names {', '.join(sorted(strangers))}, which is no workload")
    cells = ["yes" if rule.callers & {caller, ANY_WORKLOAD} else "" for caller in CALLERS]
    person = "" if rule.person is Person.NONE else rule.person.value
    scopes = ", ".join(f"`{scope}`" for scope in sorted(rule.scopes))
    ways = ", ".join(sorted(rule.tokens_of)) or ("" if rule.person is Person.NONE else "the caller")
    return f"| {method} | {' | '.join(cells)} | {person or 'none'} | {scopes} | {ways} |"


def main() -> None:
    """Write, or check."""
    text = page(policies())
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        raise SystemExit("docs/policy.md is out of date, run `make docs`")


if __name__ == "__main__":
    main()
