"""The values: described, guarded, and as large as they say."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from .rendering import CHART, HELM, ROOT, helm, render
from .test_pods import quantity

sys.path.insert(0, str(ROOT / "tools"))
import chart_schema

VALUES: Any = yaml.safe_load((CHART / "values.yaml").read_text())
# What is Kubernetes' or one's own, and no key of ours.
OTHERS = {"requests", "limits", "labels", "metricsFrom", "dns", "parameters"}


def test_every_key_has_its_sentence() -> None:
    """Whoever reads values.yaml learns what each key is for."""
    told = chart_schema.described((CHART / "values.yaml").read_text())

    def walk(values: dict[str, Any], path: str) -> list[str]:
        missing: list[str] = []
        for key, value in values.items():
            where = f"{path}{key}"
            if isinstance(value, dict) and value and key not in OTHERS and not {"requests", "limits"} & value.keys():
                # What only holds others together may be said by them.
                missing += walk(value, f"{where}.")
            elif where not in told:
                missing.append(where)
            elif not told[where].endswith((".", ":")):
                missing.append(f"{where} (no sentence)")
        return missing

    assert not walk(VALUES, "")


def test_the_schema_is_up_to_date() -> None:
    """It is made of values.yaml and the services' settings: `make helm-golden`."""
    assert chart_schema.SCHEMA.read_text() == chart_schema.text()


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ("imagee.tag=1", "imagee"),
        ("components.auth.replica=3", "replica"),
        ("components.billing.calls={}", "billing"),
        ("components.auth.settings.ALMAGEST_ACCESS_TOKEN_SECOND=5", "ALMAGEST_ACCESS_TOKEN_SECOND"),
        ("components.gateway.settings.ALMAGEST_JOBS_AT_ONCE=5", "ALMAGEST_JOBS_AT_ONCE"),
        ("components.auth.settings.ALMAGEST_LISTEN=0:1", "ALMAGEST_LISTEN"),
        ("components.auth.replicas=many", "replicas"),
        ("components.auth.calls={nobody}", "calls"),
        ("identity.source=vault", "source"),
        ("identity.duration=6 hours", "duration"),
        ("postgres.shards.events=two", "events"),
        ("door.service.port=99999", "port"),
        ("networkPolicy.enabled=maybe", "enabled"),
        ("denyList={worker}", "denyList"),
        ("componentDefaults.resources.limits.gpu=1", "gpu"),
    ],
)
def test_what_is_unknown_or_ill_typed_is_refused(values: str, word: str) -> None:
    """By helm, before anything is changed, naming the key."""
    with pytest.raises(RuntimeError, match="values don't meet the specifications of the schema") as refusal:
        helm(["--set", values])
    assert word in str(refusal.value)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ("redis.source=external", "redis.external"),
        ("identity.issuer.create=false", "identity.issuer.name is needed"),
        ("tracing.source=external", "tracing.external"),
        ("postgres.source=external", "postgres.external"),
        ("door.route=tls-route", "door.parentRefs is needed"),
        ("components.worker.autoscaling.enabled=true,components.worker.keda.enabled=true", "would scale the same pods"),
        ("identity.source=secrets", "door.tls.existingSecret"),
        ("secrets.keyEncryptionKey.kms.enabled=true", "secrets.keyEncryptionKey.existingSecret is needed"),
        (
            "secrets.keyEncryptionKey.kms.enabled=true,secrets.keyEncryptionKey.existingSecret=key",
            "secrets.keyEncryptionKey.kms.image is needed",
        ),
    ],
)
def test_what_is_missing_is_said(values: str, word: str) -> None:
    """A choice that needs another value says which."""
    with pytest.raises(RuntimeError, match=re.escape(word)):
        helm(["--set", values])


def test_every_object_of_the_schema_is_closed() -> None:
    """No part of the values takes keys that nobody knows, but for those that are Kubernetes' own."""
    open_ones: list[str] = []

    def walk(schema: dict[str, Any], path: str) -> None:
        if (
            schema.get("type") == "object"
            and "properties" in schema
            and schema.get("additionalProperties") is not False
        ):
            open_ones.append(path)
        for key, inner in schema.get("properties", {}).items():
            walk(inner, f"{path}.{key}")

    schema = chart_schema.schema()
    walk(schema, "")
    assert not open_ones
    assert schema["additionalProperties"] is False


def test_development_fits_a_laptop() -> None:
    """All pods that run at once ask for less than values-dev.yaml says."""
    rendered = render("dev")
    said = re.search(r"less than (\d+) GiB of memory and (\d+) CPUs", (CHART / "values-dev.yaml").read_text())
    assert said is not None
    memory = processors = 0.0
    for document in rendered.of("Deployment", "StatefulSet", "Job"):
        for container in document["spec"]["template"]["spec"]["containers"]:
            requests = container["resources"]["requests"]
            memory += quantity(requests["memory"])
            processors += quantity(requests["cpu"])
    assert memory < int(said[1]) * 2**30
    assert processors < int(said[2])


def test_production_has_no_single_point() -> None:
    """At least two of every service, two of every database, and no server for development."""
    for name in ("small", "large"):
        rendered = render(name)
        scalers = {
            one["spec"]["scaleTargetRef"]["name"]: one["spec"].get("minReplicas") or one["spec"].get("minReplicaCount")
            for one in rendered.of("HorizontalPodAutoscaler", "ScaledObject")
        }
        for deployment in rendered.of("Deployment"):
            where = deployment["metadata"]["name"]
            assert (deployment["spec"].get("replicas") or scalers[where]) >= 2, where
        assert all(cluster["spec"]["instances"] >= 2 for cluster in rendered.of("Cluster"))
        assert not list(rendered.of("StatefulSet", "Secret"))


def test_helm_finds_nothing_to_complain_of(tmp_path: Path) -> None:
    """`helm lint --strict` and `helm package` with each values file."""
    for values in sorted(CHART.glob("values-*.yaml")):
        done = subprocess.run(
            [HELM, "lint", "--strict", CHART, "--values", values], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    subprocess.run([HELM, "package", CHART, "--destination", tmp_path], check=True, capture_output=True)
    assert [file.name for file in tmp_path.iterdir()] == ["almagest-0.1.0.tgz"]
