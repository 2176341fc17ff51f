"""Problems and tokens, as the services answer them."""

import base64
import uuid

import grpc
import orjson
from almagest.eventstore.v1 import event_pb2
from almagest.rpc.v1 import problem_pb2
from chassis.errors import RemoteProblem


def problem(code: grpc.StatusCode, reason: str, message: str = "No.", **metadata: str) -> RemoteProblem:
    return RemoteProblem(problem_pb2.Problem(code=code.value[0], reason=reason, message=message, metadata=metadata))


def violation(code: grpc.StatusCode, reason: str, field: str, description: str) -> RemoteProblem:
    return RemoteProblem(
        problem_pb2.Problem(
            code=code.value[0],
            reason=reason,
            message=description,
            violations=[problem_pb2.FieldViolation(field=field, description=description)],
        )
    )


def position_token(position: int) -> str:
    message = event_pb2.ConsistencyToken(epoch=1, bucket=0, shard=0, position=position)
    return base64.urlsafe_b64encode(message.SerializeToString()).rstrip(b"=").decode()


def jwt(subject: str, **claims: object) -> str:
    """A token in the shape of one; the gateway leaves its proof to others."""
    parts = [{"alg": "Ed25519"}, {"sub": subject, **claims}, {"signature": uuid.uuid4().hex}]
    return ".".join(base64.urlsafe_b64encode(orjson.dumps(part)).rstrip(b"=").decode() for part in parts)
