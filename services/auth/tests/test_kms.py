"""The key-encryption key from a KMS, by a plugin that keeps to KMS v2 and has its keys in memory."""

import asyncio
import base64
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from almagest.kms.v2 import kms_pb2 as wire
from auth.adapters.kms import WrappedKey, plugin
from auth.adapters.sealing import KeyEncryptionKeyError
from auth.bootstrap import assembled, bootstrap
from auth.restoring import key_id
from auth.sealing_administration import rotate_data_keys, wrap_key
from chassis.process import running
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from structlog.testing import capture_logs

from .people import create

NOTE = "nonce.kms.example"


class Plugin:
    """Encrypts with AES-256-GCM under the newest of its keys; the nonce is what it wants to be told again."""

    def __init__(self) -> None:
        self.keys: dict[str, AESGCM] = {}
        self.version, self.healthz = "v2", "ok"
        self.asked: list[str] = []
        self.uids: set[str] = set()
        self.answers: bytes | None = None
        self.rotate()

    def rotate(self) -> None:
        self.keys[f"projects/almagest/key/{len(self.keys) + 1}"] = AESGCM(os.urandom(32))

    @property
    def present(self) -> str:
        return list(self.keys)[-1]

    async def status(self, _request: wire.StatusRequest, _context: Any) -> wire.StatusResponse:
        self.asked.append("Status")
        return wire.StatusResponse(version=self.version, healthz=self.healthz, key_id=self.present)

    async def encrypt(self, request: wire.EncryptRequest, _context: Any) -> wire.EncryptResponse:
        self._heard("Encrypt", request.uid)
        nonce = os.urandom(12)
        ciphertext = self.keys[self.present].encrypt(nonce, request.plaintext, None)
        return wire.EncryptResponse(ciphertext=ciphertext, key_id=self.present, annotations={NOTE: nonce})

    async def decrypt(self, request: wire.DecryptRequest, context: Any) -> wire.DecryptResponse:
        self._heard("Decrypt", request.uid)
        if self.answers is not None:
            return wire.DecryptResponse(plaintext=self.answers)
        key = self.keys.get(request.key_id)
        if key is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no key {request.key_id}")
        assert key is not None
        try:
            return wire.DecryptResponse(plaintext=key.decrypt(request.annotations[NOTE], request.ciphertext, None))
        except InvalidTag:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "this is not what was encrypted")
            raise AssertionError from None

    def _heard(self, method: str, uid: str) -> None:
        self.asked.append(method)
        assert uid not in self.uids
        self.uids.add(uid)


class Listening:
    """A plugin, where it is, and how it is ended."""

    def __init__(self, plugin: Plugin, socket: Path, server: grpc.aio.Server) -> None:
        self.plugin, self.socket, self.server = plugin, socket, server


@pytest.fixture
async def kms() -> AsyncIterator[Listening]:
    # A unix socket's path is short, pytest's directories are not.
    home = Path(tempfile.mkdtemp(prefix="almagest-"))
    behind, server = Plugin(), grpc.aio.server()
    methods = {
        name: grpc.unary_unary_rpc_method_handler(
            handler, request_deserializer=request.FromString, response_serializer=response.SerializeToString
        )
        for name, handler, request, response in (
            ("Status", behind.status, wire.StatusRequest, wire.StatusResponse),
            ("Encrypt", behind.encrypt, wire.EncryptRequest, wire.EncryptResponse),
            ("Decrypt", behind.decrypt, wire.DecryptRequest, wire.DecryptResponse),
        )
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("v2.KeyManagementService", methods)])
    server.add_insecure_port(f"unix:{home}/kms.sock")
    await server.start()
    yield Listening(behind, home / "kms.sock", server)
    await server.stop(0)
    shutil.rmtree(home)


@pytest.fixture
async def wrapped(kms: Listening, tmp_path: Path) -> Path:
    """A key as the KMS has wrapped it, in a file."""
    path = tmp_path / "wrapped"
    async with plugin(kms.socket, seconds=60) as asked:
        path.write_text((await asked.wrap(os.urandom(32))).model_dump_json())
    kms.plugin.asked.clear()
    return path


def with_kms(settings: Any, kms: Listening, file: Path, *older: Path) -> Any:
    return settings.model_copy(
        update={
            "key_management_socket": kms.socket,
            "key_management_seconds": 60.0,
            "key_encryption_key_file": file,
            "older_key_encryption_key_files": older,
        }
    )


async def said(kms: Listening, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `wrap-key` prints."""
    assert await wrap_key(["--socket", str(kms.socket), *arguments]) == 0
    return capsys.readouterr().out


async def test_a_service_asks_its_kms_once_and_goes_on_without_it(fresh_settings, kms, wrapped):
    """At its start. What one process has sealed the next one opens; while the KMS is away there is no next one."""
    told = with_kms(fresh_settings, kms, wrapped)
    async with running("auth", told, bootstrap):
        assert kms.plugin.asked == ["Status", "Decrypt"]
    async with assembled(told) as parts:
        person = await create(parts, "ada@example.org")
    async with assembled(told) as parts:
        await kms.server.stop(0)
        assert await parts.people.by_email("ada@example.org") == person
        assert await create(parts, "grace@example.org")
    late = told.model_copy(update={"key_management_seconds": 0.5})
    with pytest.raises(KeyEncryptionKeyError, match=r"does not answer within 0.5 seconds: nothing is there"):
        async with running("auth", late, bootstrap):
            pytest.fail("it started without a key")


async def test_who_has_had_a_file_goes_over_to_a_kms(fresh_settings, kms, tmp_path, capsys):
    """The key stays the same one, wrapped, so that nothing is sealed anew and backups fit; then the bare file can go."""
    async with assembled(fresh_settings) as parts:
        person = await create(parts, "ada@example.org")
    assert await key_id(fresh_settings, []) == 0
    before = capsys.readouterr().out
    file = tmp_path / "wrapped"
    file.write_text(await said(kms, capsys, "--file", str(fresh_settings.key_encryption_key_file)))
    bare = fresh_settings.key_encryption_key_file.read_bytes().strip()
    assert bare not in file.read_bytes()
    assert base64.b64decode(bare) not in base64.b64decode(json.loads(file.read_text())["ciphertext"])
    told = with_kms(fresh_settings, kms, file)
    assert await key_id(told, []) == 0
    assert capsys.readouterr().out == before
    async with assembled(told) as parts:
        assert await parts.people.by_email("ada@example.org") == person


async def test_a_new_key_takes_over_under_the_kms(fresh_settings, kms, wrapped, tmp_path, capsys):
    """As with files: both are told, everything is wrapped anew, and the older one is not needed any more."""
    async with assembled(with_kms(fresh_settings, kms, wrapped)) as parts:
        person = await create(parts, "ada@example.org")
    newer = tmp_path / "newer"
    newer.write_text(await said(kms, capsys))
    assert await rotate_data_keys(with_kms(fresh_settings, kms, newer, wrapped), ["wrapping"]) == 0
    async with assembled(with_kms(fresh_settings, kms, newer)) as parts:
        assert await parts.people.by_email("ada@example.org") == person
    with pytest.raises(KeyEncryptionKeyError, match="sealed with"):
        async with assembled(with_kms(fresh_settings, kms, wrapped)):
            pytest.fail("the older key still opens something")


async def test_a_newer_key_of_the_kms_is_told_and_taken(fresh_settings, kms, wrapped, tmp_path, capsys):
    """A process that starts says that its file is wrapped by an older one; wrapped anew, the KMS may forget that."""
    kms.plugin.rotate()
    told = with_kms(fresh_settings, kms, wrapped)
    with capture_logs() as log:
        async with assembled(told) as parts:
            person = await create(parts, "ada@example.org")
    (warning,) = [line for line in log if line["log_level"] == "warning"]
    assert (warning["file"], warning["wrapped_by"]) == (str(wrapped), "projects/almagest/key/1")
    anew = tmp_path / "anew"
    anew.write_text(await said(kms, capsys, "--file", str(wrapped)))
    del kms.plugin.keys["projects/almagest/key/1"]
    with capture_logs() as log:
        async with assembled(with_kms(fresh_settings, kms, anew)) as parts:
            assert await parts.people.by_email("ada@example.org") == person
    assert not [line for line in log if line["log_level"] == "warning"]
    with pytest.raises(KeyEncryptionKeyError, match="refuses to decrypt: no key projects/almagest/key/1"):
        async with assembled(told):
            pytest.fail("the KMS has no such key any more")


@pytest.mark.parametrize(
    ("says", "problem"),
    [
        ({"healthz": "the HSM is locked"}, "says that it is not well: the HSM is locked"),
        ({"version": "v3"}, "speaks 'v3', and not the protocol v2"),
        ({"answers": b"short"}, "answers a key of 5 bytes, and not of 32"),
    ],
)
async def test_a_plugin_that_does_not_do_its_work_is_told(fresh_settings, kms, wrapped, says, problem):
    """In words for who operates both; the service does not start with what it cannot trust."""
    for name, value in says.items():
        setattr(kms.plugin, name, value)
    with pytest.raises(KeyEncryptionKeyError, match=problem):
        async with assembled(with_kms(fresh_settings, kms, wrapped)):
            pytest.fail("it started")


async def test_a_key_that_the_kms_cannot_give_back_is_not_handed_out(kms: Listening):
    """Found out when it is wrapped, not when it is needed."""
    kms.plugin.answers = bytes(32)
    with pytest.raises(KeyEncryptionKeyError, match="does not decrypt what it has encrypted"):
        await wrap_key(["--socket", str(kms.socket)])


def changed(wrapped: dict[str, Any]) -> dict[str, Any]:
    ciphertext = bytearray(base64.b64decode(wrapped["ciphertext"]))
    ciphertext[0] ^= 1
    return {**wrapped, "ciphertext": base64.b64encode(ciphertext).decode()}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda _: base64.b64encode(bytes(32)).decode(), "holds no key that a KMS has wrapped"),
        (lambda _: "", "holds no key that a KMS has wrapped"),
        (lambda text: text[:-2], "holds no key that a KMS has wrapped"),
        (lambda text: " " * 65536 + text, "holds no key that a KMS has wrapped"),
        (lambda text: json.dumps({**json.loads(text), "more": 1}), "holds no key that a KMS has wrapped"),
        (lambda text: json.dumps({**json.loads(text), "ciphertext": "?"}), "holds no key that a KMS has wrapped"),
        (lambda text: json.dumps({**json.loads(text), "api": "vault"}), "holds no key that a KMS has wrapped"),
        (lambda text: json.dumps(changed(json.loads(text))), "refuses to decrypt: this is not what was encrypted"),
        (lambda text: json.dumps({**json.loads(text), "key_id": "other"}), "refuses to decrypt: no key other"),
    ],
)
async def test_a_file_that_is_no_wrapped_key_is_told(fresh_settings, kms, wrapped, change, problem):
    """With its name, and without what is in it."""
    wrapped.write_text(change(wrapped.read_text()))
    with pytest.raises(KeyEncryptionKeyError, match=problem):
        async with assembled(with_kms(fresh_settings, kms, wrapped)):
            pytest.fail("it started")


async def test_a_wrapped_key_without_its_kms_says_what_is_missing(fresh_settings, wrapped: Path):
    """The setting is named."""
    with pytest.raises(KeyEncryptionKeyError, match="is wrapped by a KMS: ALMAGEST_KEY_MANAGEMENT_SOCKET says where"):
        async with assembled(fresh_settings.model_copy(update={"key_encryption_key_file": wrapped})):
            pytest.fail("it started")


async def test_the_command_needs_no_settings(kms: Listening):
    """A key is made before there is anything else; its id is that of what comes out of the KMS."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "auth", "wrap-key", "--socket", str(kms.socket),
        env={name: value for name, value in os.environ.items() if not name.startswith("ALMAGEST_")},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0
    made = WrappedKey.model_validate_json(out)
    assert made.key_id == kms.plugin.present
    async with plugin(kms.socket, seconds=60) as asked:
        assert len(await asked.unwrap(made)) == 32
