"""What catalog-command says about a row, in the words of the file."""

import re

from almagest.rpc.v1 import problem_pb2

from worker.application.rows import ImportRow, RowReader, shown_sku
from worker.domain.job import Problem, RefusedRow

_PATH = re.compile(r"commands\[(\d+)\](?:\.\w+)?(?:\.(.+))?")
_PROPERTY = re.compile(r"properties\[(.*)\]", re.DOTALL)
_MAXIMUM_VIOLATIONS = 20
_FIELD_OF_COMMAND = {"put": "", "set_price": "price", "publish": "publish"}


def refused_row(row: ImportRow, problem: problem_pb2.Problem, reader: RowReader) -> RefusedRow:
    """The refusal of a row."""
    violations = tuple(
        (_field(violation.field, row, reader), violation.description) for violation in problem.violations
    )
    message = problem.message
    if problem.violations:
        first = problem.violations[0].field
        if first and message.startswith(f"{first}: "):
            message = violations[0][0] + message[len(first) :]
    return RefusedRow(
        line=row.line,
        sku=shown_sku(row.sku),
        problem=Problem(
            code=problem.code,
            reason=problem.reason,
            message=message.removeprefix(": "),
            violations=violations[:_MAXIMUM_VIOLATIONS],
            metadata=dict(problem.metadata),
        ),
    )


def _field(path: str, row: ImportRow, reader: RowReader) -> str:
    """The field of the row that a path in its commands means."""
    if path == "product_id":
        return reader.column("sku")
    match = _PATH.fullmatch(path)
    if match is None:
        return path
    index, inner = int(match[1]), match[2] or ""
    if not inner:
        command = row.commands[index].WhichOneof("command") if index < len(row.commands) else None
        return reader.column(_FIELD_OF_COMMAND.get(command or "", ""))
    inner = inner.removeprefix("description.")
    kind, dot, attribute = inner.partition(".")
    if dot and kind in ("general", "car", "truck"):
        attribute = attribute.removeprefix("vehicle.")
        attribute = _PROPERTY.sub(lambda name: f"properties.{name[1]}", attribute)
        return reader.column(f"attributes.{attribute}")
    return reader.column(inner)
