"""What every representation is made of."""

from datetime import UTC, datetime
from typing import Any

import orjson
from almagest.rpc.v1 import problem_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import BaseModel, ConfigDict

from gateway.problems import FieldError, public_field


class Shape(BaseModel):
    """A JSON object that the gateway answers."""

    model_config = ConfigDict(frozen=True)


def at(timestamp: Timestamp) -> datetime:
    """The time of a timestamp, in UTC, to the microsecond."""
    return datetime.fromtimestamp(timestamp.seconds, UTC).replace(microsecond=timestamp.nanos // 1000)


def maybe(message: Any, field: str) -> datetime | None:
    """The time in a field of a message, if it has one."""
    return at(getattr(message, field)) if message.HasField(field) else None


EXAMPLE_PATH = "/v1/products/0193a1c2-7f4e-7c3a-9d52-3f1b6f1f0c11"


class ItemProblem(Shape):
    """Why there is nothing for one item."""

    reason: str
    message: str
    errors: tuple[FieldError, ...]


def item_problem(problem: problem_pb2.Problem) -> dict[str, Any]:
    """What a service says of an item."""
    return {
        "reason": problem.reason,
        "message": problem.message,
        "errors": [
            {"field": public_field(violation.field), "message": violation.description}
            for violation in problem.violations
        ],
    }


def fragment(text: str) -> orjson.Fragment | None:
    """JSON that is passed through as it came."""
    return orjson.Fragment(text) if text else None
