"""Whether `helm upgrade` can make one release of another, and what it would lose.

What an API server refuses to change of an object is said by Kubernetes' validation (`ValidateXUpdate` in
pkg/apis/*/validation); helm changes objects of the same kind and name, and deletes those that are not rendered any more.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from .rendering import Document, containers

Objects: TypeAlias = Mapping[tuple[str, str], Document]

HOLDING_DATA: Final = frozenset({"PersistentVolumeClaim", "StatefulSet", "Secret", "Cluster"})
"""Kinds whose objects take what people have with them: volumes, servers with their volumes, keys, CloudNativePG's."""
_FIXED: Final[Mapping[str, tuple[str, ...]]] = {
    "Deployment": ("spec.selector",),
    "PersistentVolumeClaim": ("spec.accessModes", "spec.selector", "spec.storageClassName", "spec.volumeMode"),
    "RoleBinding": ("roleRef",),
    "ClusterRoleBinding": ("roleRef",),
    "Secret": ("type",),
}
_ALL_FIXED_BUT: Final[Mapping[str, frozenset[str]]] = {
    "StatefulSet": frozenset(
        {
            *("minReadySeconds", "ordinals", "persistentVolumeClaimRetentionPolicy", "replicas"),
            *("revisionHistoryLimit", "template", "updateStrategy"),
        }
    ),
    "Job": frozenset(
        {"activeDeadlineSeconds", "backoffLimit", "manualSelector", "parallelism", "suspend", "ttlSecondsAfterFinished"}
    ),
}
"""Fields of the spec."""


def problems(before: Iterable[Document], after: Iterable[Document], *, given: Iterable[str] = ()) -> list[str]:
    """What a cluster would refuse, what would be lost with data in it, and what a hook would look for in vain.

    Args:
        before: What the earlier chart renders.
        after: What this one renders of the same values, as an upgrade.
        given: Objects that are there in any case, as `Kind/name`.
    """
    was, becomes = _by_name(before), _by_name(after)
    return [
        *_lost(was, becomes),
        *(
            f"{kind}/{name}: {why}"
            for (kind, name) in was.keys() & becomes.keys()
            for why in _refused(was[kind, name], becomes[kind, name])
        ),
        *_not_there_yet(was, becomes, frozenset(given)),
    ]


def _by_name(documents: Iterable[Document]) -> Objects:
    return {(one["kind"], one["metadata"]["name"]): one for one in documents}


def _hooks(document: Document) -> frozenset[str]:
    hooks: str = document["metadata"].get("annotations", {}).get("helm.sh/hook", "")
    return frozenset(hook.strip() for hook in hooks.split(",") if hook)


def _lost(was: Objects, becomes: Objects) -> Iterator[str]:
    for kind, name in sorted(was.keys() - becomes.keys()):
        document = was[kind, name]
        kept = document["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
        if kind in HOLDING_DATA and not kept and not _hooks(document):
            yield f"{kind}/{name}: it would be deleted, and what it holds with it"


def _refused(old: Document, new: Document) -> Iterator[str]:
    """What of an object cannot be changed, and is another."""
    if _hooks(new):
        # Deleted before it is made anew.
        return
    for path in _fixed(old, new):
        one, other = _at(old, path), _at(new, path)
        if one != other:
            yield f"{path} cannot change from {one!r} to {other!r}"


def _fixed(old: Document, new: Document) -> Iterator[str]:
    kind: str = new["kind"]
    yield from _FIXED.get(kind, ())
    if kind in _ALL_FIXED_BUT:
        yield from (
            f"spec.{field}" for field in sorted((old["spec"].keys() | new["spec"].keys()) - _ALL_FIXED_BUT[kind])
        )
    if kind == "Service" and "None" in (_at(old, "spec.clusterIP"), _at(new, "spec.clusterIP")):
        # Without an address from the start, or never.
        yield "spec.clusterIP"


def _at(document: Document, path: str) -> Any:
    value: Any = document
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _not_there_yet(was: Objects, becomes: Objects, given: frozenset[str]) -> Iterator[str]:
    """What a hook before the upgrade needs, and only the upgrade would bring."""
    early = {key for key, document in becomes.items() if "pre-upgrade" in _hooks(document)}
    issued = {("Secret", one["spec"]["secretName"]) for (kind, _), one in was.items() if kind == "Certificate"}
    for kind, name in sorted(early):
        if kind != "Job":
            continue
        for needed in sorted(_needed(becomes[kind, name]["spec"]["template"]["spec"])):
            if needed not in was.keys() | early | issued and "/".join(needed) not in given:
                yield f"{kind}/{name}: it runs before {'/'.join(needed)} is there"


def _needed(pod: Document) -> Iterator[tuple[str, str]]:
    """The objects that a pod cannot start without."""
    yield "ServiceAccount", pod["serviceAccountName"]
    for volume in pod.get("volumes", []):
        for source in (volume, *volume.get("projected", {}).get("sources", [])):
            if "secret" in source:
                yield "Secret", source["secret"].get("secretName") or source["secret"]["name"]
            if "configMap" in source:
                yield "ConfigMap", source["configMap"]["name"]
            if "persistentVolumeClaim" in source:
                yield "PersistentVolumeClaim", source["persistentVolumeClaim"]["claimName"]
    for container in containers(pod):
        for source in container.get("envFrom", []):
            yield "ConfigMap", source["configMapRef"]["name"]
        for variable in container.get("env", []):
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference:
                yield "Secret", reference["name"]
