"""`helm test`, run as its pod does against a whole system, whose services come to Redis as users of the chart's."""

import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from almagest_cli.local.authority import LocalAuthority
from harness.door import Door
from harness.running import running_system

from .rendering import render
from .test_bundled import Redis

pytestmark = pytest.mark.xdist_group("helm")


def test_the_smoke_test_passes_and_no_service_misses_a_right_in_redis(tmp_path: Path) -> None:
    """What is rendered as the test's script, with the variables that its pod has; and an import, for the worker."""
    rendered = render("dev")
    server = Redis(tmp_path / "redis", LocalAuthority(tmp_path / "state" / "authority"))

    def told(process: str) -> dict[str, str]:
        url = server.secret.get(f"{process}-url")
        if url is None:
            return {}
        address = urlsplit(url).netloc.rpartition("@")[2]
        return {"ALMAGEST_REDIS_URL": url.replace(address, f"localhost:{server.port}")}

    try:
        server.start(rendered)
        with running_system(tmp_path / "state", told=told) as system:
            script = tmp_path / "smoke.py"
            script.write_text(rendered.named("ConfigMap", "almagest-smoke")["data"]["smoke.py"])
            given = {
                "ADDRESS": f"127.0.0.1:{urlsplit(system.url).port}",
                "HOST": "localhost",
                "CA": str(system.ca),
                "EMAIL": system.admin_email,
                "PASSWORD": system.admin_password,
            }
            pod = rendered.named("Pod", "almagest-smoke")["spec"]
            assert given.keys() == rendered.environment(pod["containers"][0]).keys()
            for _ in range(2):
                done = subprocess.run([sys.executable, script], env=given, capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stdout + done.stderr
                assert "FAIL" not in done.stdout
            assert done.stdout.count("ok  ") == 7
            wrong = subprocess.run(
                [sys.executable, script], env=given | {"PASSWORD": "guess"}, capture_output=True, check=False
            )
            assert wrong.returncode != 0
            with Door.to(system) as door:
                row = (
                    b'{"sku":"HELM-ROW","kind":"general","name":"Row","category":"tests","attributes":{"brand":"B"}}\n'
                )
                submitted = door.http.post("/v1/imports", content=row, headers={"Content-Type": "application/x-ndjson"})
                assert door.await_end(submitted.json()["job_id"])["progress"]["rows_created"] == 1
            for process in system.local.daemons():
                log = system.log(process)
                assert "NOPERM" not in log, process
                assert "NoPermission" not in log, process
                assert "no permissions" not in log, process
            spaces = {key.decode().split(":")[1] for key in server.client("worker").scan_iter()}
            assert spaces >= {"auth", "gateway", "jobs"}
    finally:
        server.remove()
