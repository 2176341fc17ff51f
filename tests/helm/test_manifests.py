"""Every object is one that Kubernetes takes, from the oldest version that the chart admits to the newest known."""

import functools
import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from jsonschema.validators import Draft202012Validator
from referencing import Registry, Resource

from .rendering import Rendered, render

VERSIONS = ("1.32", "1.33", "1.34", "1.35", "1.36", "1.37")
# Of operators, whose schemas are their own: what must be there is looked at below.
FOREIGN = {
    "cert-manager.io/v1",
    "postgresql.cnpg.io/v1",
    "gateway.networking.k8s.io/v1",
    "gateway.networking.k8s.io/v1alpha2",
    "monitoring.coreos.com/v1",
    "keda.sh/v1alpha1",
}
SCHEMAS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"


@functools.cache
def _registry(version: str) -> tuple[Path, Registry[Any]]:
    """Where the schemas of a version are, and what they refer to."""
    (directory,) = SCHEMAS.glob(f"v{version}.*-local-strict")
    definitions: Any = json.loads((directory / "_definitions.json").read_text())
    return directory, Resource[Any].from_contents(definitions) @ Registry[Any]()


@functools.cache
def _validator(version: str, kind: str, api_version: str) -> Any:
    """The validator of a kind, as kubernetes-validate has it; made once, which it does each time."""
    directory, registry = _registry(version)
    group, _, level = api_version.rpartition("/")
    name = "-".join(part for part in (kind.lower(), group.partition(".")[0], level) if part)
    schema: Any = json.loads((directory / f"{name}.json").read_text())
    return Draft202012Validator(schema, registry=registry)


def test_every_known_version_is_tried() -> None:
    """A newer Kubernetes in the validator is a newer one here."""
    assert kubernetes_validate.latest_version().startswith(VERSIONS[-1])


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_object(rendered: Rendered, version: str) -> None:
    """No unknown field, none missing, none of a wrong type."""
    problems = [
        f"{document['kind']} {document['metadata']['name']}: {error.json_path}: {error.message}"
        for document in rendered.documents
        if document["apiVersion"] not in FOREIGN
        for error in _validator(version, document["kind"], document["apiVersion"]).iter_errors(document)
    ]
    assert not problems


def test_an_object_that_is_wrong_would_be_found() -> None:
    """The validator is one that can refuse."""
    deployment = json.loads(json.dumps(render("dev").deployment("auth")))
    deployment["spec"]["template"]["spec"]["hostNetworks"] = True
    assert list(_validator("1.32", "Deployment", "apps/v1").iter_errors(deployment))


def test_upgrades_run_migrations_first() -> None:
    """On an upgrade they are a hook before anything else is changed, on an install and by choice they are not."""

    def hooks(rendered: Rendered) -> set[str | None]:
        return {
            job["metadata"].get("annotations", {}).get("helm.sh/hook")
            for job in rendered.of("Job")
            if job["metadata"]["labels"]["app.kubernetes.io/component"] == "migrate"
        }

    assert hooks(render("small")) == {None}
    assert hooks(render("small", "--is-upgrade")) == {"pre-upgrade"}
    assert hooks(render("dev", "--is-upgrade")) == {None}


def test_names_are_told_once(rendered: Rendered) -> None:
    """No two objects of a kind have one name, and all names are ones that DNS takes."""
    names = [(one["kind"], one["metadata"]["name"]) for one in rendered.documents]
    assert len(names) == len(set(names))
    assert all(len(name) <= 63 for _, name in names)
