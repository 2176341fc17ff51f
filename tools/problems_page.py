"""Write docs/problems.md from the services' error tables and tools/problems.toml, or with --check say whether it is up
to date.

The reasons and their statuses come from the code: the rows of the tables, what is raised with a reason of its own
(read from the source), and the gateway's own function from gRPC to HTTP. The sentences come from problems.toml. A
reason without a sentence is refused, and a sentence without a reason.
"""

import ast
import importlib
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
from almagest.rpc.v1 import problem_pb2
from chassis import errors
from chassis.errors import ChassisError, ErrorTable
from gateway import problems

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "problems.md"
SENTENCES = ROOT / "tools" / "problems.toml"
PACKAGES = ("chassis", "auth", "event_store", "catalog_command", "catalog_query", "worker", "gateway")

INTRODUCTION = """# Problems

When a request fails, the answer is a problem (RFC 9457, `application/problem+json`). Its `reason` is a stable name for
programs, its `type` is `https://almagest.dev/problems/` and the name below, its `detail` a sentence for people, and its
`trace_id` leads to everything that happened. Where fields are wrong, `errors` names them all. This page is written by
`make docs` from the services' error tables.

"""

_REASON = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")
_NO_REASONS = re.compile(
    r"(?:ALMAGEST|OTEL|GRPC|SPIFFE)_.*|SO_.*|TOO_LARGE|NOT_SERVING"
    r"|CERTIFICATE_VERIFY|KEY_VALUES_MISMATCH|NO_CERTIFICATE_OR_CRL_FOUND|NO_START_LINE"
)
"""Other names in capitals: environment variables, options of sockets, the end of several reasons, gRPC's word for
health, and what OpenSSL calls its errors.
"""
_CLASSES: Mapping[str, type[ChassisError]] = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, ChassisError) and value is not ChassisError
}
_AT_THE_DOOR = {"unauthenticated": 401, "bad_request": 400}
_ASKED = {
    "read": problems.Asked("GET", "/", ""),
    "write": problems.Asked("POST", "/", ""),
    "conditional": problems.Asked("PATCH", "/", "", has_if_match=True),
}


class Found:
    """The reasons of the code.

    Attributes:
        codes: from the reasons of services to their gRPC statuses.
        statuses: from the reasons of the gateway itself to their HTTP statuses.
        named: everything that looks like a reason, wherever it stands.
    """

    def __init__(self) -> None:
        self.codes: defaultdict[str, set[grpc.StatusCode]] = defaultdict(set)
        self.statuses: defaultdict[str, set[int]] = defaultdict(set)
        self.named: set[str] = set()

    def look_at_tables(self) -> None:
        """Take in the rows of each service's error table, and what every service can raise."""
        for package in PACKAGES:
            if package in {"chassis", "gateway"}:
                continue
            module: Any = importlib.import_module(f"{package}.entrypoints.errors")
            table: ErrorTable = module.ERRORS if hasattr(module, "ERRORS") else module.error_table()
            for row in table.rows.values():
                self.codes[row.reason].add(row.code)
        for error in _CLASSES.values():
            self.codes[error.default_reason].add(error.code)

    def look_at_door(self) -> None:
        """Take in what the gateway says when its framework refuses, and when something is unexpected."""
        for status, reason in problems.REASONS.items():
            self.statuses[reason].add(status)
        self.statuses["REFUSED"].add(400)

    def look_at_source(self, directory: Path) -> None:
        """Take in what the modules below a directory raise with a reason of their own."""
        for path in sorted(directory.rglob("*.py")):
            if "migrations" in path.parts:
                continue
            tree = ast.parse(path.read_text(encoding="utf-8"))
            self.named |= set(_named(tree))
            constants = dict(_constants(tree))
            helpers = dict(_helpers(tree))
            for node in ast.walk(tree):
                if isinstance(node, ast.Call):
                    self._look_at_call(node, constants, helpers)

    def _look_at_call(
        self, call: ast.Call, constants: Mapping[str, str], helpers: Mapping[str, type[ChassisError]]
    ) -> None:
        function = call.func.id if isinstance(call.func, ast.Name) else ""
        words = {keyword.arg: keyword.value for keyword in call.keywords}
        if function in _CLASSES:
            for reason in _texts(words.get("reason"), constants):
                self.codes[reason].add(_CLASSES[function].code)
        elif function in helpers:
            for reason in _texts(call.args[0], constants):
                self.codes[reason].add(helpers[function].code)
        elif function == "Refused" and len(call.args) > 1:
            status, reasons = call.args[0], _texts(call.args[1], constants)
            if isinstance(status, ast.Constant) and isinstance(status.value, int):
                for reason in reasons:
                    self.statuses[reason].add(status.value)
        elif function in _AT_THE_DOOR:
            default = "UNAUTHENTICATED" if function == "unauthenticated" else "INVALID_REQUEST"
            for reason in _texts(words.get("reason"), constants) or [default]:
                self.statuses[reason].add(_AT_THE_DOOR[function])

    @property
    def reasons(self) -> set[str]:
        """All of them."""
        return {*self.codes, *self.statuses, *self.named}

    def statuses_of(self, reason: str, when: Collection[str]) -> list[int]:
        """The HTTP statuses that a reason is answered with, for the given kinds of requests."""
        told = {
            problems.status_of(problem_pb2.Problem(code=code.value[0], reason=reason), _ASKED[kind])
            for code in self.codes[reason]
            for kind in when
        }
        if reason != errors.UNEXPECTED_REASON:
            # The gateway tells of what is nobody's fault only that it is INTERNAL.
            told.discard(500)
        return sorted(told | self.statuses[reason])


def _named(tree: ast.Module) -> Iterator[str]:
    """Every text that looks like a reason."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            if _REASON.fullmatch(text) and not _NO_REASONS.fullmatch(text):
                yield text


def _texts(node: ast.expr | None, constants: Mapping[str, str]) -> list[str]:
    """The texts that an argument can be: itself, a constant of the module, or either side of an `if`."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.Name) and node.id in constants:
        return [constants[node.id]]
    if isinstance(node, ast.IfExp):
        return [*_texts(node.body, constants), *_texts(node.orelse, constants)]
    return []


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The texts that a module gives names to."""
    for node in tree.body:
        if isinstance(node, ast.AnnAssign):
            target = node.target
        elif isinstance(node, ast.Assign):
            target = node.targets[0]
        else:
            continue
        if isinstance(target, ast.Name) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield target.id, node.value.value


def _helpers(tree: ast.Module) -> Iterator[tuple[str, type[ChassisError]]]:
    """Functions whose first parameter is the reason and that answer an error of the chassis."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.args.args and node.args.args[0].arg == "reason":
            answer = node.returns
            if isinstance(answer, ast.Name) and answer.id in _CLASSES:
                yield node.name, _CLASSES[answer.id]


def found_in(root: Path) -> Found:
    """The reasons of a tree's services."""
    found = Found()
    found.look_at_tables()
    found.look_at_door()
    for package in PACKAGES:
        found.look_at_source(root / "services" / package.replace("_", "-") / package)
    return found


def page(found: Found, sentences: Mapping[str, Any]) -> str:
    """The page as the code and the sentences now stand.

    Raises:
        SystemExit: they do not agree.
    """
    public, reports, inside = sentences["problems"], sentences["reports"], sentences["inside"]
    known = {*public, *reports, *inside}
    for reason in sorted(found.reasons - known):
        raise SystemExit(f"tools/problems.toml has no sentence about {reason}")
    for reason in sorted(known - found.reasons):
        raise SystemExit(f"tools/problems.toml tells of {reason}, which the code does not know")
    statuses: dict[str, list[int]] = {}
    for reason, row in public.items():
        statuses[reason] = found.statuses_of(reason, row.get("when", tuple(_ASKED)))
        if not statuses[reason]:
            raise SystemExit(f"{reason}: no status is found for it; does a client ever see it?")
    lines = ["| status | reasons |", "| --- | --- |"]
    for status in sorted({status for each in statuses.values() for status in each}):
        names = [_kebab(reason) for reason in sorted(public) if status in statuses[reason]]
        links = ", ".join(f"[{name}](#{name})" for name in names)
        lines.append(f"| {status} {problems.TITLES[status]} | {links} |")
    lines.append("")
    for reason in sorted(public):
        told = " or ".join(str(status) for status in statuses[reason])
        row = public[reason]
        lines += [f"## {_kebab(reason)}", "", f"`{reason}`, {told}. {row['what']}", "", f"**Do:** {row['do']}", ""]
    lines += ["## In a job and in the report of an import", "", "| reason | meaning |", "| --- | --- |"]
    lines += [f"| `{reason}` | {reports[reason]} |" for reason in sorted(reports)]
    return INTRODUCTION + "\n".join(lines) + "\n"


def _kebab(reason: str) -> str:
    """The last part of the problem's type, which is also its heading's anchor."""
    return reason.lower().replace("_", "-")


def main() -> None:
    """Write, or check."""
    text = page(found_in(ROOT), tomllib.loads(SENTENCES.read_text(encoding="utf-8")))
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        raise SystemExit("docs/problems.md is out of date, run `make docs`")


if __name__ == "__main__":
    main()
