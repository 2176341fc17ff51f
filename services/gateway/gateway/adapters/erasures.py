from almagest.auth.v1 import privacy_pb2 as wire
from almagest.auth.v1 import privacy_pb2_grpc
from chassis.rpc.channel import Channel

from gateway.adapters.calls import ask
from gateway.application.ports import Erasures, Person

_SERVICE = "/almagest.auth.v1.PrivacyService/"
# To forget somebody twice answers the first time's erasure.
RETRYABLE = frozenset({_SERVICE + "ForgetPerson", _SERVICE + "GetErasure"})


class GrpcErasures(Erasures):
    """Erasures, in auth."""

    def __init__(self, channel: Channel) -> None:
        self._stub = privacy_pb2_grpc.PrivacyServiceStub(channel)

    async def forget(self, user_id: str, person: Person, *, block_email: bool) -> wire.Erasure:  # noqa: D102 - the port says
        request = wire.ForgetPersonRequest(user_id=user_id, block_email=block_email)
        return (await ask(self._stub.ForgetPerson, request, person)).erasure

    async def get(self, user_id: str, person: Person) -> wire.Erasure:  # noqa: D102
        return (await ask(self._stub.GetErasure, wire.GetErasureRequest(user_id=user_id), person)).erasure
