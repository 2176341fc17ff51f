"""Write helm/almagest/values.schema.json from values.yaml and the services' settings, or with --check say whether it is
up to date.

The values are the one place where a key is named and described: its default gives its type, the comment above it its
description. What a default cannot say (choices, bounds, maps with names of one's own) stands in the tables below. The
settings that a service may be given are those that it has, less those that the chart tells it itself: a name that is
misspelt is refused when the chart is rendered, and not ignored by the pod.
"""

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import yaml
from chassis.settings import ServiceSettings

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "helm" / "almagest"
SCHEMA = CHART / "values.schema.json"

MANAGED = frozenset(
    {
        "ALMAGEST_TRUST_DOMAIN",
        "ALMAGEST_IDENTITY_DIRECTORY",
        "ALMAGEST_DENY_LIST",
        "ALMAGEST_LOG_LEVEL",
        "ALMAGEST_DRAIN_SECONDS",
        # In its place the chart has `preStopSeconds`, which the grace period counts.
        "ALMAGEST_SHUTDOWN_DELAY_SECONDS",
        "ALMAGEST_TRACE_RATE_PER_SECOND",
        "ALMAGEST_KEY_MANAGEMENT_SOCKET",
        "ALMAGEST_LISTEN",
        "ALMAGEST_HTTP_LISTEN",
        "ALMAGEST_TLS_CERTIFICATE",
        "ALMAGEST_TLS_KEY",
        "ALMAGEST_CONNECTION_SECONDS",
        "ALMAGEST_EVENT_STORE_TARGET",
        "ALMAGEST_AUTH_TARGET",
        "ALMAGEST_CATALOG_COMMAND_TARGET",
        "ALMAGEST_CATALOG_QUERY_TARGET",
        "ALMAGEST_WORKER_TARGET",
        "ALMAGEST_DATABASE_URLS",
        "ALMAGEST_MIGRATION_DATABASE_URLS",
        "ALMAGEST_REDIS_URL",
        "ALMAGEST_KEY_ENCRYPTION_KEY_FILE",
        "ALMAGEST_OLDER_KEY_ENCRYPTION_KEY_FILES",
        "ALMAGEST_ARCHIVE_DIRECTORY",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    }
)
"""What the chart itself tells a service, from other values."""

_ANY_OBJECT = {"type": "object"}
_OBJECTS = {"type": "array", "items": {"type": "object"}}
_STRINGS = {"type": "array", "items": {"type": "string"}}
_MAP = {"type": "object", "additionalProperties": {"type": "string"}}
_QUANTITIES = {
    "type": "object",
    "additionalProperties": False,
    "properties": {name: {"type": ["string", "number"]} for name in ("cpu", "memory", "ephemeral-storage")},
    "required": ["cpu", "memory"],
}
_RESOURCES = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"requests": _QUANTITIES, "limits": _QUANTITIES},
    "required": ["requests", "limits"],
}
_DURATION = {"type": "string", "pattern": "^([0-9]+h)?([0-9]+m)?([0-9]+s)?$", "minLength": 2}
_PARAMETERS = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}

BY_NAME: Mapping[str, Any] = {
    "resources": _RESOURCES,
    "labels": _MAP,
    "annotations": _MAP,
    "podAnnotations": _MAP,
    "serviceAccountAnnotations": _MAP,
    "nodeSelector": _MAP,
    "affinity": _ANY_OBJECT,
    "tolerations": _OBJECTS,
    "extraVolumes": _OBJECTS,
    "extraVolumeMounts": _OBJECTS,
    "extraEgress": _OBJECTS,
    "args": _STRINGS,
    "env": _OBJECTS,
    "volumeMounts": _OBJECTS,
    "extraSpec": _ANY_OBJECT,
    "parentRefs": _OBJECTS,
    "parameters": _PARAMETERS,
    "to": _OBJECTS,
    "dns": _OBJECTS,
    "doorFrom": _OBJECTS,
    "metricsFrom": _OBJECTS,
    "duration": _DURATION,
    "renewBefore": _DURATION,
    "authorityDuration": _DURATION,
    "olderKeys": _STRINGS,
    "pullSecrets": _STRINGS,
    "port": {"type": "integer", "minimum": 1, "maximum": 65535},
    "nodePort": {"type": "integer", "minimum": 0, "maximum": 32767},
}
"""What holds wherever a key has this name."""

BY_PATH: Mapping[str, Any] = {
    "logLevel": {"enum": ["DEBUG", "INFO", "WARNING", "ERROR"]},
    "denyList": {
        "type": "array",
        "items": {"type": "string", "pattern": "^(spiffe://|serial:)"},
    },
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "componentDefaults.spread": {"enum": ["ScheduleAnyway", "DoNotSchedule"]},
    "componentDefaults.maxUnavailable": {"type": ["integer", "string"]},
    "identity.source": {"enum": ["cert-manager", "csi", "secrets"]},
    "identity.bundle.kind": {"enum": ["ConfigMap", "Secret"]},
    "identity.connectionSeconds": {"type": "integer", "minimum": 10},
    "migrations.upgrade": {"enum": ["hook", "job"]},
    "door.hosts": _STRINGS | {"minItems": 1},
    "door.paths": {"type": "array", "items": {"type": "string", "pattern": "^/"}, "minItems": 1},
    "door.route": {"enum": ["none", "tls-route", "http-route", "ingress"]},
    "door.service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "door.service.externalTrafficPolicy": {"enum": ["Cluster", "Local"]},
    "postgres.source": {"enum": ["bundled", "cloudnative-pg", "external"]},
    "redis.source": {"enum": ["bundled", "external"]},
    "tracing.source": {"enum": ["none", "bundled", "external"]},
    "tracing.ratePerSecond": {"type": "number", "minimum": 0},
    "monitoring.rules.slowSeconds": {"type": "number", "exclusiveMinimum": 0},
}
"""What holds at this path alone."""

_STEMS = {"enum": ["users", "events", "catalog", "jobs"]}


def main() -> int:
    """Write the file, or compare it."""
    written = text()
    if sys.argv[1:] == ["--check"]:
        if SCHEMA.read_text() != written:
            sys.stderr.write(
                f"{SCHEMA.relative_to(ROOT)} is behind values.yaml or a service's settings; run `make docs`\n"
            )
            return 1
    else:
        SCHEMA.write_text(written)
    return 0


def text() -> str:
    """What the file is to hold."""
    return json.dumps(schema(), indent=2) + "\n"


def schema() -> dict[str, Any]:
    """The schema of the values."""
    written = (CHART / "values.yaml").read_text()
    values: dict[str, Any] = yaml.safe_load(written)
    told = described(written)
    components: dict[str, Any] = {}
    root = _object({**values, "components": {}}, "", told)
    properties = root["properties"]
    properties["components"]["properties"] = components
    properties["settings"] = _settings(ServiceSettings) | {"description": told["settings"]}
    defaults = properties["componentDefaults"]["properties"]
    defaults["settings"] = {"type": "object", "maxProperties": 0, "description": told["componentDefaults.settings"]}
    for name in values["components"]:
        shared = {
            key: {"$ref": f"#/properties/componentDefaults/properties/{key}"} for key in defaults if key != "settings"
        }
        components[name] = {
            "type": "object",
            "additionalProperties": False,
            "description": told[f"components.{name}"],
            "properties": {
                "calls": {"type": "array", "items": {"enum": list(values["components"])}, "uniqueItems": True},
                "database": _STEMS,
                "redis": {"type": "boolean"},
                "settings": _settings(settings_of(name)),
                **shared,
            },
            "required": ["calls"],
        }
    properties["components"]["required"] = list(values["components"])
    # Helm gives every chart what is said to all charts.
    properties["global"] = {"type": "object"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart almagest",
        "definitions": {"setting": {"type": ["string", "number", "boolean", "array"]}},
        **root,
    }


def settings_of(component: str) -> type[ServiceSettings]:
    """The settings class of a service."""
    module: Any = importlib.import_module(f"{component.replace('-', '_')}.settings")
    found: type[ServiceSettings] = module.Settings
    return found


def environment_of(settings: type[ServiceSettings]) -> dict[str, Any]:
    """From the environment variables that a service reads to their fields."""
    return {
        str(field.validation_alias or f"ALMAGEST_{name.upper()}"): field
        for name, field in settings.model_fields.items()
    }


def _settings(settings: type[ServiceSettings]) -> dict[str, Any]:
    names = sorted(set(environment_of(settings)) - MANAGED)
    anything = {"type": ["string", "number", "boolean", "array"]}
    return {"type": "object", "additionalProperties": False, "properties": dict.fromkeys(names, anything)}


def _object(values: Mapping[str, Any], path: str, told: Mapping[str, str]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for key, value in values.items():
        where = f"{path}.{key}" if path else key
        found = BY_PATH.get(where) or BY_NAME.get(key) or _of(value, where, told)
        properties[key] = {**({"description": told[where]} if where in told else {}), **found}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _of(value: Any, path: str, told: Mapping[str, str]) -> dict[str, Any]:
    match value:
        case dict():
            return _object(cast("dict[str, Any]", value), path, told)
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer", "minimum": 0}
        case float():
            return {"type": "number", "minimum": 0}
        case str():
            return {"type": "string"}
        case _:
            raise TypeError(f"{path}: say in the tables of {Path(__file__).name} what may stand there")


def described(text: str) -> dict[str, str]:
    """From the path of each key of values.yaml to the comment above it."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.removeprefix("#").strip())
            continue
        key, colon, _ = stripped.partition(":")
        indent = len(line) - len(line.lstrip())
        if colon and not stripped.startswith("- "):
            while path and path[-1][0] >= indent:
                path.pop()
            path.append((indent, key))
            if comment:
                found[".".join(name for _, name in path)] = " ".join(comment)
        comment = []
    return found


if __name__ == "__main__":
    sys.exit(main())
