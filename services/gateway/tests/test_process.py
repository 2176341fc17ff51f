"""The gateway as a process: told by its environment, ended by a signal."""

import os
import signal
import ssl
import subprocess
import sys
import time

import httpx
import pytest
from almagest_cli.local.ports import free_port


@pytest.fixture
def environment(settings):
    targets = {
        f"ALMAGEST_{name}_TARGET": "127.0.0.1:1" for name in ("AUTH", "CATALOG_COMMAND", "CATALOG_QUERY", "WORKER")
    }
    port = free_port()
    return (
        {name: value for name, value in os.environ.items() if not name.startswith("ALMAGEST_")}
        | targets
        | {
            "ALMAGEST_LISTEN": f"127.0.0.1:{port}",
            "ALMAGEST_IDENTITY_DIRECTORY": str(settings.identity_directory),
            "ALMAGEST_TLS_CERTIFICATE": str(settings.tls_certificate),
            "ALMAGEST_TLS_KEY": str(settings.tls_key),
        }
    )


def run(environment, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "gateway", *arguments], env=environment, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("server", ["granian", "hypercorn", "uvicorn"])
def test_it_lives_without_its_services_is_not_ready_and_ends_when_told(environment, authority, server):
    """Health is its own; readiness is theirs, too. SIGTERM ends it cleanly, saying so."""
    process = run(environment | {"ALMAGEST_HTTP_SERVER": server}, "serve")
    url = f"https://{environment['ALMAGEST_LISTEN']}"
    tls = ssl.create_default_context(cafile=str(authority.directory / "ca.crt"))
    try:
        deadline = time.monotonic() + 30
        with httpx.Client(verify=tls, base_url=url) as client:
            while True:
                try:
                    assert client.get("/healthz").json() == {"status": "ok"}
                    break
                except httpx.TransportError:
                    assert process.poll() is None, process.communicate()[1]
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            ready = client.get("/readyz")
            assert ready.status_code == 503
            assert ready.json()["probes"]["auth"] == "timeout"
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert '"event":"ended"' in errors
    assert "Traceback" not in errors


def test_what_is_wrong_with_its_settings_is_named(environment):
    """By the names of the variables, before anything is begun."""
    del environment["ALMAGEST_TLS_KEY"]
    environment["ALMAGEST_HTTP_SERVER"] = "apache"
    process = run(environment)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "ALMAGEST_TLS_KEY" in errors
    assert "ALMAGEST_HTTP_SERVER" in errors
    assert "Traceback" not in errors


def test_a_certificate_that_is_none_keeps_it_from_starting(environment, tmp_path):
    """Rather than a door without a lock."""
    (tmp_path / "tls.crt").write_text("no certificate")
    environment["ALMAGEST_TLS_CERTIFICATE"] = str(tmp_path / "tls.crt")
    process = run(environment)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "cannot serve" in errors


def test_it_has_nothing_to_migrate(environment):
    """The same command as for all services does nothing, and well."""
    for command, code in (("migrate", 0), ("dance", 1)):
        process = run(environment, command)
        process.communicate(timeout=60)
        assert process.returncode == code
