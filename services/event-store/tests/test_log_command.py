"""`almagest log`, as an operator runs it."""

import asyncio
import json
import os
import sys

import asyncpg
import pytest

from .moving import begin, fetch, process


@pytest.fixture
def almagest(store, identity, tmp_path):
    """Runs the command against the store."""

    async def run(*arguments, workload="operator"):
        environment = {
            "ALMAGEST_STATE": str(tmp_path),
            "ALMAGEST_EVENT_STORE_TARGET": f"127.0.0.1:{store.port}",
            "ALMAGEST_OPERATOR_IDENTITY": str(identity(workload)),
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "almagest_cli", "log", *arguments),
            env=os.environ | environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode, out.decode(), err.decode()

    return run


async def test_a_whole_log_is_said_to_be_whole(store, almagest):
    """Every shard, with the hash that it ends with; one shard alone, from a position on."""
    written = await store.command.appended(*(store.command.item(store.command.stream()) for _ in range(20)))
    code, out, err = await almagest("verify")
    assert (code, err) == (0, "")
    assert out.count("whole up to position") == 2
    code, out, _ = await almagest("verify", "--json", "--shard", "0", "--after", "2")
    [told] = map(json.loads, out.splitlines())
    last = max(answer.position.position for answer in written if answer.position.shard == 0)
    assert (code, told["position"], told["fault"], len(told["hash"])) == (0, last, None, 64)


async def test_a_fault_is_named_and_the_command_fails(store, almagest, databases):
    """The position in words and for programs, exit code 1; the other shards are checked all the same."""
    await store.command.appended(*(store.command.item(store.command.stream()) for _ in range(20)))
    connection = await asyncpg.connect(databases.admin[0])
    await connection.execute("UPDATE events SET payload = payload || '\\x00' WHERE position = 3")
    await connection.close()
    code, out, err = await almagest("verify")
    assert code == 1
    assert "shard 0: position 3 does not hold" in out
    assert "shard 1: whole" in out
    assert "not what was written" in err
    connection = await asyncpg.connect(databases.admin[1])
    stream = await connection.fetchval("UPDATE streams SET revision = 7 WHERE origin = 1 RETURNING stream")
    await connection.close()
    code, out, err = await almagest("verify", "--shard", "1")
    assert code == 1
    assert f"table streams, row {stream}, does not agree with the events" in out.replace("\n", " ")
    code, out, _ = await almagest("verify", "--json")
    told = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [entry["fault"] and entry["fault"]["position"] for entry in told[:2]] == [3, 1]


async def test_what_is_refused_is_said(almagest):
    """A shard that does not exist, a position without a shard, and another workload's certificate, each with its exit
    code.
    """
    code, _, err = await almagest("verify", "--shard", "7")
    assert (code, "There is no shard 7" in err) == (1, True)
    code, _, err = await almagest("verify", "--after", "7")
    assert code == 2
    code, _, err = await almagest("verify", workload="worker")
    assert (code, "may not call" in err) == (4, True)


async def test_a_move_is_cancelled_and_what_became_of_it_is_said(almagest, store, databases):
    """Which buckets are where; without one under way it is refused."""
    code, _, err = await almagest("cancel-move")
    assert (code != 0, "No move of buckets is under way" in err) == (True, True)
    async with process(databases) as mover:
        await begin(databases, mover, 0, 99, slice_buckets=50)
        running = asyncio.create_task(almagest("cancel-move"))
        async with asyncio.timeout(30):
            while not await fetch(databases.owner[0], "SELECT FROM moves WHERE cancelled"):  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.05)
        # The process that had begun it is gone, so the replica ends it.
        await fetch(databases.owner[0], "UPDATE moves SET leased_until = '-infinity'")
        code, out, err = await running
    assert (code, err) == (0, "")
    assert "0-99: cancelled. They are in shard 0, as before." in out
    code, out, _ = await almagest("moves", "--json")
    [told] = map(json.loads, out.splitlines())
    assert (told["phase"], told["error"], told["slices"]) == ("cancelled", "An operator cancelled it.", [])
