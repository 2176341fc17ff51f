"""A backup that is not whole is named for what it is, before anything is restored."""

import hashlib
import json
from pathlib import Path

import orjson
import pytest
from almagest_cli.backups.manifest import ArchiveFile, DatabaseFile, Manifest
from almagest_cli.backups.programs import PostgresPrograms
from almagest_cli.local.errors import LocalError, ProcessDiedError


@pytest.fixture
def backup(tmp_path) -> Path:
    """A directory with two files and a manifest."""
    directory = tmp_path / "backup"
    content = {"events_0.dump": b"events", "archives/shard-0/1.events": b"old events"}
    for name, content_of in content.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content_of)
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    database = DatabaseFile("events_0", "event_store", "events_0.dump", 6, sums["events_0.dump"], "0006", 7, "ab" * 32)
    archive = ArchiveFile(0, "1.events", 10, sums["archives/shard-0/1.events"])
    Manifest("id", "2026-11-23T00:00:00+00:00", "18.6", "key", (database,), (archive,)).write(directory)
    return directory


def test_a_whole_backup_is_what_was_written(backup):
    """Read again, with the same digest, and without a fault."""
    manifest = Manifest.read(backup)
    assert manifest.faults(backup) == []
    assert manifest.log[0].position == 7
    assert Manifest.read(backup).digest == manifest.digest


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("events_0.dump", b"event", "events_0.dump has 5 bytes, and had 6"),
        ("events_0.dump", b"Events", "events_0.dump was changed: its sha256 is another one"),
        ("archives/shard-0/1.events", b"old events.", "archives/shard-0/1.events has 11 bytes, and had 10"),
        ("archives/shard-0/1.events", None, "archives/shard-0/1.events cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_is_missing_cut_short_or_changed_is_named(backup, almagest, name, content, fault):
    """By `check` as by `restore`, which does nothing then."""
    if content is None:
        (backup / name).unlink()
    else:
        (backup / name).write_bytes(content)
    for command in ("check", "restore"):
        done = almagest("backup", command, str(backup), "--json")
        assert (done.code, done.out) == (1, "")
        assert fault in json.loads(done.err)["error"]


def test_a_changed_manifest_is_found(backup, almagest):
    """A byte of it by itself; a whole other one by the digest that was kept elsewhere."""
    manifest = Manifest.read(backup)
    content = orjson.loads((backup / "manifest.json").read_bytes())
    content["backup"]["databases"][0]["position"] = 8
    (backup / "manifest.json").write_bytes(orjson.dumps(content))
    assert "was changed" in almagest("backup", "check", str(backup)).err
    other = Manifest("id", "2026-11-23T00:00:01+00:00", "18.6", "key", manifest.databases, manifest.archives)
    other.write(backup)
    assert almagest("backup", "check", str(backup)).code == 0
    done = almagest("backup", "check", str(backup), "--digest", manifest.digest)
    assert done.code == 1
    assert other.digest in done.err


def test_what_was_broken_off_is_no_backup(backup, almagest):
    """Files without a manifest are nothing."""
    (backup / "manifest.json").unlink()
    assert "is no backup: it has no manifest.json" in almagest("backup", "restore", str(backup)).err


def test_the_key_that_is_needed_is_named(backup, almagest, state):
    """It is in no backup; without it nothing is begun."""
    done = almagest("backup", "restore", str(backup))
    assert done.code == 1
    assert "The key-encryption key key is needed" in done.err
    assert not (state / "postgres").exists()


def test_no_password_is_among_the_arguments_and_what_a_program_said_is_told(tmp_path):
    """Everybody on the machine can read the arguments of a process."""
    program = tmp_path / "pg_restore"
    program.write_text('#!/bin/sh\necho "$@ / $PGPASSWORD" >&2\nexit 3\n')
    program.chmod(0o755)
    with pytest.raises(ProcessDiedError) as refusal:
        PostgresPrograms(tmp_path).restore("postgresql://owner:s%2Fcret@/events_0?host=/run", file=tmp_path)
    arguments, _, password = str(refusal.value).rpartition(" / ")
    assert "exit code 3" in arguments
    assert "--dbname=postgresql://owner@/events_0?host=/run" in arguments
    assert password == "s/cret"
    assert "cret" not in arguments


def test_a_machine_without_the_programs_is_told_what_to_install(tmp_path, monkeypatch):
    """And where to say that they are elsewhere."""
    monkeypatch.setenv("ALMAGEST_POSTGRES_PROGRAMS", str(tmp_path / "nowhere"))
    programs = PostgresPrograms.of_this_machine()
    with pytest.raises(LocalError, match="nowhere/pg_restore cannot be run"):
        programs.restore("postgresql://owner:x@/events_0", file=tmp_path)
