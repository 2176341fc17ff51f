"""Problems between their message and plain data."""

from almagest.rpc.v1 import problem_pb2

from worker.domain.job import Problem


def to_message(problem: Problem) -> problem_pb2.Problem:
    """The message of a problem."""
    return problem_pb2.Problem(
        code=problem.code,
        reason=problem.reason,
        message=problem.message,
        violations=[problem_pb2.FieldViolation(field=field, description=text) for field, text in problem.violations],
        metadata=dict(problem.metadata),
    )


def from_message(message: problem_pb2.Problem) -> Problem:
    """The problem of a message."""
    return Problem(
        code=message.code,
        reason=message.reason,
        message=message.message,
        violations=tuple((violation.field, violation.description) for violation in message.violations),
        metadata=dict(message.metadata),
    )
