"""A service that asks after its own health as others would: by gRPC, through its own port, with a certificate.

Kubernetes has a probe for gRPC, but one without TLS, and our servers speak to nobody without a certificate. A program
started for each probe would cost a hundred times the answer. So the small HTTP side asks, and passes on the answer.
"""

from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry import context as otel_context

from chassis.errors import ChassisError, RemoteProblem
from chassis.rpc.channel import Channel
from chassis.telemetry.tracing import context_from, unrecorded

_SERVING = health_pb2.HealthCheckResponse.SERVING


class NotServing(Exception):
    """The server says so, or says nothing."""


class OwnHealth:
    """Asks a server after its health, on a channel that is made when somebody wants to know."""

    def __init__(self, channel: Callable[[], Channel]) -> None:
        self._channel = channel
        self._stub: Any = None

    async def __call__(self) -> None:
        """See that it serves.

        Raises:
            NotServing: It does not, or cannot be asked: its certificate has expired, for one.
        """
        if self._stub is None:
            self._stub = health_pb2_grpc.HealthStub(self._channel())
        # Nobody wants a trace of each probe.
        token = otel_context.attach(context_from(unrecorded()))
        try:
            answer = await self._stub.Check(health_pb2.HealthCheckRequest())
        except RemoteProblem as problem:
            # It has more to do than it takes on. To take it out of the balance would give the others more still.
            if problem.code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise NotServing(str(problem)) from problem
        except ChassisError as error:
            raise NotServing(str(error)) from error
        else:
            if answer.status != _SERVING:
                raise NotServing(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
        finally:
            otel_context.detach(token)
