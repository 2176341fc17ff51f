"""What every pod is held to: the Pod Security Standard `restricted` and more, and what it needs being there."""

from collections.abc import Iterator
from typing import Any

from .rendering import GIVEN, Document, Rendered, containers

# Whose directories are whose: a service may write to /tmp alone, but for the archives.
WRITABLE = {
    "/tmp",  # noqa: S108 - a volume of its own
    "/var/lib/almagest/archives",
    "/var/lib/postgresql",
    "/var/run/postgresql",
    "/data",
    "/run/kms",
}


def test_no_container_may_do_more_than_it_needs(rendered: Rendered) -> None:
    """Nobody is root or may become it, writes into its image, or has a capability."""
    for where, spec, container in rendered.containers():
        pod, own = spec["securityContext"], container["securityContext"]
        assert pod["runAsNonRoot"] is own["runAsNonRoot"] is True, where
        assert pod["runAsUser"] >= 999, where
        assert pod["runAsGroup"] >= 999, where
        assert pod["seccompProfile"] == own["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert own["readOnlyRootFilesystem"] is True, where
        assert own["allowPrivilegeEscalation"] is own["privileged"] is False, where
        assert own["capabilities"] == {"drop": ["ALL"]}, where
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC", "hostUsers"}, where
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert writable <= WRITABLE, where


def test_services_run_as_the_user_of_their_images(rendered: Rendered) -> None:
    """65532:65532, as services/Dockerfile makes them."""
    for where, spec, container in rendered.containers():
        if container["image"].startswith("almagest/"):
            assert (spec["securityContext"]["runAsUser"], spec["securityContext"]["runAsGroup"]) == (65532, 65532), (
                where
            )
            assert container["command"][:2] == ["python", "-m"] or where == "almagest-smoke/smoke", where


def test_no_pod_has_a_token_of_the_cluster(rendered: Rendered) -> None:
    """Each has an account of its own, or its service's, and nobody talks to Kubernetes."""
    accounts = {one["metadata"]["name"]: one for one in rendered.of("ServiceAccount")}
    assert all(one["automountServiceAccountToken"] is False for one in accounts.values())
    for name, pod in rendered.pods():
        assert pod["spec"]["automountServiceAccountToken"] is False, name
        assert pod["spec"]["enableServiceLinks"] is False, name
        assert pod["spec"]["serviceAccountName"] in accounts, name
    assert not list(rendered.of("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"))


def test_every_container_has_requests_and_limits(rendered: Rendered) -> None:
    """Of processor, memory and disk, the request never above the limit."""
    for where, spec, container in rendered.containers():
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        for resource in ("cpu", "memory", "ephemeral-storage"):
            assert 0 < quantity(requests[resource]) <= quantity(limits[resource]), f"{where} {resource}"
        for volume in spec.get("volumes", []):
            if "emptyDir" in volume:
                assert quantity(volume["emptyDir"]["sizeLimit"]) <= quantity("512Mi"), f"{where} {volume['name']}"


def test_every_secret_and_config_map_that_a_pod_needs_is_there(rendered: Rendered) -> None:
    """Made by the chart or by cert-manager for it, or named in the values as being there; with the keys that are used."""
    there: dict[str, set[str] | None] = dict.fromkeys(GIVEN[rendered.name])
    for one in rendered.of("Secret", "ConfigMap"):
        there[f"{one['kind']}/{one['metadata']['name']}"] = {*one.get("data", {}), *one.get("stringData", {})}
    for one in rendered.of("Certificate"):
        there[f"Secret/{one['spec']['secretName']}"] = {"tls.crt", "tls.key", "ca.crt"}
    used: set[str] = set()
    for where, pod in rendered.pods():
        for reference, keys in references(pod["spec"]):
            assert reference in there, f"{where} needs {reference}"
            known = there[reference]
            assert known is None or keys <= known, f"{where} needs {keys - (known or set())} of {reference}"
            used.add(reference)
    unused = {
        name
        for name in there
        if name not in used
        and ("-dashboard-" not in name)
        # For people, for the operator of the databases, and for the issuer.
        and not any(part in name for part in ("-identity-operator", "-authority", "-server", "-replication"))
    }
    assert not unused - {"Secret/almagest-web"}


def references(spec: Document) -> Iterator[tuple[str, set[str]]]:
    """What a pod refers to, as Kind/name, with the keys that it takes."""
    for container in containers(spec):
        for source in container.get("envFrom", []):
            yield f"ConfigMap/{source['configMapRef']['name']}", set()
        for one in container.get("env", []):
            if "valueFrom" in one:
                reference = one["valueFrom"]["secretKeyRef"]
                yield f"Secret/{reference['name']}", {reference["key"]}
    for volume in spec.get("volumes", []):
        for source in volume.get("projected", {}).get("sources", [volume]):
            yield from _of_volume(source)


def _of_volume(source: Document) -> Iterator[tuple[str, set[str]]]:
    for kind, field in (("Secret", "secret"), ("ConfigMap", "configMap")):
        if field in source:
            keys = {item["key"] for item in source[field].get("items", [])}
            yield f"{kind}/{source[field].get('secretName') or source[field]['name']}", keys


def test_what_is_renewed_is_seen_without_a_restart(rendered: Rendered) -> None:
    """Nothing is mounted by subPath: such a file never changes under a running pod."""
    for where, _, container in rendered.containers():
        assert all("subPath" not in mount for mount in container["volumeMounts"]), where


def test_volumes_are_mounted_and_mounts_have_volumes(rendered: Rendered) -> None:
    """Neither is left over."""
    for name, pod in rendered.pods():
        volumes = [volume["name"] for volume in pod["spec"].get("volumes", [])]
        if name.startswith("almagest-postgres-"):
            volumes.append("data")
        mounted = {mount["name"] for one in containers(pod["spec"]) for mount in one["volumeMounts"]}
        assert mounted == set(volumes), name
        assert len(volumes) == len(set(volumes)), name


def test_changed_configuration_and_secrets_restart_pods(rendered: Rendered) -> None:
    """A Deployment says in its template what they are; certificates and the deny list are taken up without."""
    for deployment in rendered.of("Deployment", "StatefulSet"):
        annotations = deployment["spec"]["template"]["metadata"]["annotations"]
        assert len(annotations["checksum/config"]) == 64, deployment["metadata"]["name"]


def test_every_service_survives_a_drain_and_is_spread(rendered: Rendered) -> None:
    """A budget of disruptions that leaves somebody, and constraints on nodes and zones, for each Deployment of ours."""
    budgets = {one["metadata"]["name"]: one["spec"] for one in rendered.of("PodDisruptionBudget")}
    for deployment in rendered.of("Deployment"):
        name, spec = deployment["metadata"]["name"], deployment["spec"]
        if name == "almagest-jaeger":
            continue
        assert budgets[name]["maxUnavailable"] == 1, name
        assert budgets[name]["selector"] == spec["selector"], name
        assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}, name
        keys = {one["topologyKey"] for one in spec["template"]["spec"]["topologySpreadConstraints"]}
        assert keys == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}, name


def test_pods_are_chosen_by_labels_that_they_have(rendered: Rendered) -> None:
    """Each Service, budget and scaler chooses the pods of exactly one workload."""
    pods = {name: pod["metadata"]["labels"] for name, pod in rendered.pods()}
    for service in rendered.of("Service"):
        chosen = {name for name, labels in pods.items() if service["spec"]["selector"].items() <= labels.items()}
        assert len(chosen) == 1, (service["metadata"]["name"], chosen)
    for scaler in rendered.of("HorizontalPodAutoscaler", "ScaledObject"):
        target = rendered.named("Deployment", scaler["spec"]["scaleTargetRef"]["name"])
        assert "replicas" not in target["spec"], "two would set it"


_UNITS = {"m": 1e-3, "": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def quantity(text: Any) -> float:
    """A quantity of Kubernetes as a number."""
    digits = str(text).rstrip("mKMGi")
    return float(digits) * _UNITS[str(text)[len(digits) :]]
