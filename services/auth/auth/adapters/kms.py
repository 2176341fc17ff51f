"""A KMS that keeps the key above the key-encryption key, by the plugins that Kubernetes has for its own Secrets.

Their protocol (KMS v2, KEP-3299; stable since Kubernetes 1.29) is gRPC over a Unix domain socket: encrypt, decrypt, and
status. There are plugins for the clouds, for Vault, and for HSMs. The key-encryption key's file then holds the key as
the KMS has encrypted it, and a process has it decrypted once, as it starts: as the API servers do with theirs. A KMS
that is away keeps new processes from starting, and none from going on.
"""

import base64
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import grpc
import structlog
from almagest.kms.v2 import kms_pb2
from chassis.sealing.aead import KEY_BYTES
from google.protobuf.message import Message
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, StringConstraints, ValidationError

from auth.adapters.sealing import KeyEncryptionKeyError

_SERVICE: Final = "/v2.KeyManagementService/"
_VERSIONS: Final = frozenset({"v2", "v2beta1"})  # what plugins of the stable protocol call it
_MOST_FILE_BYTES: Final = 64 * 1024
_MOST_TOLD: Final = 300

_Response = TypeVar("_Response", bound=Message)
_logger = structlog.stdlib.get_logger(__name__)


def _decoded(value: object) -> object:
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


_Encoded = Annotated[
    bytes,
    BeforeValidator(_decoded),
    PlainSerializer(lambda value: base64.b64encode(value).decode(), when_used="json"),
]
"""Bytes; base64 in JSON."""


class WrappedKey(BaseModel):
    """A key that the KMS has encrypted, with all that it wants to be told to decrypt it: what stands in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    api: Literal["kms.kubernetes.io/v2"] = "kms.kubernetes.io/v2"
    key_id: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    """The key of the KMS."""
    ciphertext: Annotated[_Encoded, Field(min_length=1)]
    annotations: dict[str, _Encoded] = {}

    @classmethod
    def read(cls, path: Path) -> "WrappedKey":
        """Read a file.

        Raises:
            KeyEncryptionKeyError: naming the file and what is wrong with it.
        """
        try:
            with path.open("rb") as file:
                return cls.model_validate_json(file.read(_MOST_FILE_BYTES))
        except OSError as error:
            raise KeyEncryptionKeyError(f"cannot read the key-encryption key {path}: {error.strerror}") from None
        except ValidationError:
            raise KeyEncryptionKeyError(
                f"{path} holds no key that a KMS has wrapped: `python -m auth wrap-key` makes one, or wraps a bare one"
            ) from None


class Kms:
    """A plugin that answers."""

    def __init__(self, channel: grpc.aio.Channel, socket: Path, *, seconds: float) -> None:
        self._channel = channel
        self._socket = socket
        self._seconds = seconds

    async def present_key_id(self) -> str:
        """The key that the KMS encrypts with now.

        Raises:
            KeyEncryptionKeyError: it does not answer, cannot do its work, or speaks another protocol.
        """
        status = await self._call("Status", kms_pb2.StatusRequest(), kms_pb2.StatusResponse)
        if status.version not in _VERSIONS:
            raise self._error(f"speaks {status.version!r}, and not the protocol v2")
        if status.healthz != "ok":
            raise self._error(f"says that it is not well: {status.healthz}")
        return status.key_id

    async def wrap(self, key: bytes) -> WrappedKey:
        """Have a key encrypted, and see that it can be decrypted.

        Raises:
            KeyEncryptionKeyError: the KMS does not, or not as it should.
        """
        answer = await self._call("Encrypt", kms_pb2.EncryptRequest(plaintext=key, uid=_uid()), kms_pb2.EncryptResponse)
        wrapped = WrappedKey.model_construct(
            key_id=answer.key_id, ciphertext=answer.ciphertext, annotations=dict(answer.annotations)
        )
        if not answer.key_id or await self.unwrap(wrapped) != key:
            raise self._error("does not decrypt what it has encrypted")
        return wrapped

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        """Have a key decrypted.

        Raises:
            KeyEncryptionKeyError: the KMS does not, or what comes out is no key of ours.
        """
        request = kms_pb2.DecryptRequest(
            ciphertext=wrapped.ciphertext, uid=_uid(), key_id=wrapped.key_id, annotations=wrapped.annotations
        )
        key = (await self._call("Decrypt", request, kms_pb2.DecryptResponse)).plaintext
        if len(key) != KEY_BYTES:
            raise self._error(f"answers a key of {len(key)} bytes, and not of {KEY_BYTES}")
        return key

    async def _call(self, method: str, request: Message, response: type[_Response]) -> _Response:
        call: Any = self._channel.unary_unary(
            _SERVICE + method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        try:
            return await call(request, timeout=self._seconds, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                late = f"does not answer within {self._seconds:g} seconds"
                raise self._error(late if self._socket.exists() else f"{late}: nothing is there") from None
            told = (error.details() or error.code().name)[:_MOST_TOLD]
            raise self._error(f"refuses to {method.lower()}: {told}") from None

    def _error(self, what: str) -> KeyEncryptionKeyError:
        return KeyEncryptionKeyError(f"the KMS plugin at {self._socket} {what}")


@asynccontextmanager
async def plugin(socket: Path, *, seconds: float) -> AsyncGenerator[Kms]:
    """The plugin that listens at a socket, waited for if it is about to start.

    Args:
        socket: Where. Only who may open it can have keys decrypted.
        seconds: How long each answer may take.
    """
    options = [("grpc.default_authority", "localhost"), ("grpc.max_receive_message_length", _MOST_FILE_BYTES)]
    async with grpc.aio.insecure_channel(f"unix:{socket}", options=options) as channel:
        yield Kms(channel, socket, seconds=seconds)


async def unwrapped(kms: Kms, files: tuple[Path, ...]) -> list[bytes]:
    """The keys in files. Says which should be wrapped anew, since the KMS has a newer key itself.

    Raises:
        KeyEncryptionKeyError: one of them cannot be read, or the KMS does not decrypt it.
    """
    wrapped = {file: WrappedKey.read(file) for file in files}
    present = await kms.present_key_id()
    for file, key in wrapped.items():
        if key.key_id != present:
            _logger.warning(
                "a key-encryption key is wrapped by an older key of the KMS: `wrap-key --file` wraps it anew",
                file=str(file),
                wrapped_by=key.key_id,
                present=present,
            )
    return [await kms.unwrap(key) for key in wrapped.values()]


def _uid() -> str:
    return uuid.uuid4().hex
