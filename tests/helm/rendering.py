"""Renders of the chart and ways to look into them."""

import functools
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parent.parent.parent
CHART: Final = ROOT / "helm" / "almagest"
RELEASED: Final = ROOT / "helm" / "released.tgz"
"""The chart that later ones must be able to follow: `make released`."""
HELM: Final = Path(sys.executable).with_name("helm")
COMPONENTS: Final = ("auth", "catalog-command", "catalog-query", "event-store", "gateway", "worker")
NAMESPACE: Final = "shop"

Document = dict[str, Any]
"""An object of Kubernetes."""

EXTERNAL: Final = {
    "identity": {"source": "secrets", "bundle": {"name": "authorities"}},
    "door": {"tls": {"existingSecret": "door"}, "route": "ingress", "ingress": {"className": "public"}},
    "postgres": {
        "source": "external",
        "external": {
            "secrets": {name: f"{name}-databases" for name in ("auth", "catalog-query", "event-store", "worker")},
            "ownerSecret": "owner-databases",
            "caConfigMap": "postgres-ca",
            "to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}],
        },
    },
    "redis": {
        "source": "external",
        "external": {
            "existingSecret": "redis",
            "caConfigMap": "redis-ca",
            "to": [{"ipBlock": {"cidr": "10.2.0.0/16"}}],
        },
    },
    "secrets": {
        "keyEncryptionKey": {
            "existingSecret": "key",
            "olderKeys": ["before"],
            "kms": {
                "enabled": True,
                "image": "registry.example/vault-kms:1",
                "args": ["-socket=unix:///run/kms/plugin.sock"],
                "env": [{"name": "VAULT_ADDR", "value": "https://vault.example"}],
                "volumeMounts": [{"name": "vault", "mountPath": "/vault", "readOnly": True}],
            },
        }
    },
    "tracing": {
        "source": "external",
        "external": {"endpoint": "https://collector:4317", "to": [{"ipBlock": {"cidr": "10.3.0.0/16"}}]},
    },
    "admin": {"create": True, "existingSecret": "admin"},
    "components": {
        "auth": {
            "serviceAccountAnnotations": {"vault.example/role": "almagest-auth"},
            "extraVolumes": [{"name": "vault", "configMap": {"name": "vault-ca"}}],
            "extraEgress": [{"ports": [{"port": 8200}], "to": [{"ipBlock": {"cidr": "10.4.0.0/16"}}]}],
        },
        "worker": {"settings": {"ALMAGEST_IMPORT_HOSTS": ["files.example"], "ALMAGEST_JOBS_AT_ONCE": 8}},
    },
}
"""Servers, certificates and secrets of one's own."""

GIVEN: Final[Mapping[str, frozenset[str]]] = {
    "default": frozenset(),
    "dev": frozenset(),
    "small": frozenset({"Secret/almagest-key-encryption-key", "Secret/almagest-redis.example"}),
    "large": frozenset({"Secret/almagest-key-encryption-key", "Secret/almagest-redis.example"}),
    "external": frozenset(
        {
            *(f"Secret/almagest-identity-{name}" for name in (*COMPONENTS, "almagest-owner")),
            *(f"Secret/{name}-databases" for name in ("auth", "catalog-query", "event-store", "worker", "owner")),
            *(f"Secret/{name}" for name in ("door", "redis", "key", "admin")),
            *(f"ConfigMap/{name}" for name in ("authorities", "postgres-ca", "redis-ca", "vault-ca")),
        }
    ),
}
"""What each of the values says is there already."""


def containers(spec: Document) -> list[Document]:
    """The containers of a pod's spec, with those that run beside."""
    return [*spec.get("initContainers", []), *spec["containers"]]


@dataclass(frozen=True)
class Rendered:
    """What the chart makes of some values."""

    name: str
    documents: tuple[Document, ...]

    def of(self, *kinds: str) -> Iterator[Document]:
        """The objects of these kinds."""
        return (document for document in self.documents if document["kind"] in kinds)

    def named(self, kind: str, name: str) -> Document:
        """The one object."""
        (found,) = (one for one in self.of(kind) if one["metadata"]["name"] == name)
        return found

    def pods(self) -> Iterator[tuple[str, Document]]:
        """Every pod, or template of one, with the name of what makes it: metadata and spec."""
        for document in self.documents:
            match document["kind"]:
                case "Pod":
                    yield document["metadata"]["name"], document
                case "Deployment" | "StatefulSet" | "Job":
                    yield document["metadata"]["name"], document["spec"]["template"]
                case _:
                    pass

    def containers(self) -> Iterator[tuple[str, Document, Document]]:
        """Every container: where it is, the spec of its pod, and itself."""
        for name, pod in self.pods():
            for container in containers(pod["spec"]):
                yield f"{name}/{container['name']}", pod["spec"], container

    def deployment(self, component: str) -> Document:
        """The Deployment of a service."""
        return self.named("Deployment", f"almagest-{component}")

    def environment(self, container: Document) -> dict[str, Any]:
        """What a container is told: its own variables, and those of ConfigMaps. Secret values as references."""
        told: dict[str, Any] = {}
        for source in container.get("envFrom", []):
            told |= self.named("ConfigMap", source["configMapRef"]["name"])["data"]
        return told | {one["name"]: one.get("value", one.get("valueFrom")) for one in container.get("env", [])}


@functools.cache
def render(name: str, *options: str) -> Rendered:
    """The chart with the values of that name, and options of helm.

    Raises:
        RuntimeError: Helm refuses, and says why.
    """
    values = {
        "default": [],
        "external": ["--values", "-"],
    }.get(name, ["--values", str(CHART / f"values-{name}.yaml")])
    given = json.dumps(EXTERNAL) if name == "external" else None
    return Rendered(name, tuple(documents(helm([*values, *options], given))))


def helm(arguments: list[str], given: str | None = None, *, chart: Path = CHART) -> str:
    """What `helm template` prints.

    Raises:
        RuntimeError: It refuses, and says why.
    """
    command = [str(HELM), "template", "almagest", str(chart), "--namespace", NAMESPACE, *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def documents(text: str) -> Iterator[Document]:
    """The objects of a stream of YAML."""
    return (document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document)


_MADE = re.compile(r"[A-Za-z0-9]{40}")
_DIGEST = re.compile(r"#[0-9a-f]{64}")


def settled(document: Document) -> Document:
    """An object without what is another each time: secrets that are made, and what is computed from them."""
    copy: Document = json.loads(json.dumps(document))
    if copy["kind"] == "Secret":
        copy["data"] = dict.fromkeys(copy.get("data", {}), "<made once>")
        for key, value in copy.get("stringData", {}).items():
            copy["stringData"][key] = _MADE.sub("<made once>", _DIGEST.sub("#<digest>", value))
    annotations = copy.get("spec", {}).get("template", {}).get("metadata", {}).get("annotations", {})
    if "checksum/secrets" in annotations:
        annotations["checksum/secrets"] = "<of secrets>"
    # Files of the chart are where they are; here it is enough that they are taken.
    if copy["kind"] == "ConfigMap":
        for key, value in copy["data"].items():
            if key.endswith((".json", ".py")):
                copy["data"][key] = f"<{len(value.splitlines())} lines>"
    return copy
