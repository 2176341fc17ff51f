"""What an import relies on of the catalog, asked of the one in memory and of the real one."""

import hashlib
import uuid
from collections.abc import Callable
from typing import Any

import grpc
import orjson
from almagest.catalog.v1 import command_pb2
from worker.adapters.auth import Auth
from worker.adapters.catalog_command import GrpcCatalog
from worker.adapters.ndjson import NdjsonReader
from worker.application.rows import ImportRow
from worker.domain.identifiers import product_id
from worker.domain.records import Record

from .memory import MemoryCatalog, MemoryTokens, car


async def test_the_catalog_in_memory_keeps_the_contract() -> None:
    """So that what is proven with it means something."""
    await keeps_the_contract(MemoryCatalog(), MemoryTokens().token)


async def test_the_real_catalog_keeps_the_contract(backend: Any, editor: Any) -> None:
    """With tokens that auth gives to the worker."""
    command, auth = backend.processes["catalog-command"], backend.processes["auth"]
    async with (
        backend.channel("catalog-command", port=command.grpc, caller="worker") as commands,
        backend.channel("auth", port=auth.grpc, caller="worker") as people,
    ):
        tokens = Auth(people).tokens(user_id=editor.user_id, job_id=uuid.uuid4())
        await keeps_the_contract(GrpcCatalog(commands), tokens.token)


async def keeps_the_contract(port: Any, token: Callable[[], Any]) -> None:
    """What the run relies on: created, changed, unchanged, refused, replayed by id, and a dry run that writes nothing."""
    sku = uuid.uuid4().hex
    reader = NdjsonReader()

    async def execute(row: dict[str, Any], *, command_id: str | None = None, dry_run: bool = False) -> Any:
        data = orjson.dumps(row)
        read = reader.read(Record(1, 1, 1, data))
        assert isinstance(read, ImportRow)
        item = command_pb2.CommandItem(
            command_id=command_id or str(uuid.uuid4()),
            product_id=product_id(sku),
            commands=read.commands,
            fingerprint=hashlib.sha256(data).digest(),
            transaction_token=await token(),
            dry_run=dry_run,
        )
        (answer,) = await port.execute([item], timeout=10.0)
        return answer

    def told(answer: Any) -> tuple[bool, bool, bool]:
        return answer.executed.created, answer.executed.changed, answer.executed.replayed

    first = str(uuid.uuid4())
    assert told(await execute(car(sku), dry_run=True)) == (True, True, False)
    assert told(await execute(car(sku), command_id=first)) == (True, True, False)
    assert told(await execute(car(sku))) == (False, False, False)
    assert told(await execute(car(sku, doors=5), dry_run=True)) == (False, True, False)
    assert told(await execute(car(sku, doors=5))) == (False, True, False)
    assert told(await execute(car(sku), command_id=first)) == (True, True, True)
    assert told(await execute(car(sku), command_id=first, dry_run=True))[0] is True
    refused = await execute(car(sku, doors=12))
    assert refused.problem.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert refused.problem.reason == "INVALID_COMMAND"
    assert told(await execute(car(sku, doors=5))) == (False, False, False)
