"""The Tiltfile, evaluated with stand-ins for Tilt: whatever it names is there, in the tree or in what the chart renders."""

import io
import os
import re
import runpy
import shutil
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from almagest_cli.local.layout import SERVICES

from .stand_ins import Tilt, documents

ROOT = Path(__file__).resolve().parents[2]
RENDERED = ROOT / "tests/helm/golden/dev.yaml"
"""The chart with values-dev.yaml, as tests/helm keeps it up to date."""
NAMES = {service.name for service in SERVICES}
WORKLOADS = {"Deployment", "StatefulSet", "Job", "Pod"}


def evaluated(subcommand: str = "up", **said: Any) -> Tilt:
    def helm(command: list[str]) -> str:
        assert command[:4] == ["helm", "template", "almagest", "helm/almagest"]
        assert (ROOT / command[3] / "Chart.yaml").is_file()
        values = [word for before, word in pairwise(command) if before == "--values"]
        assert values == ["helm/almagest/values-dev.yaml", *said.get("values", [])]
        # Without the one, what the chart makes once would be made anew at each look; without the other, the second look
        # would fail.
        assert {"--dry-run=server", "--take-ownership"} <= set(command)
        return RENDERED.read_text(encoding="utf-8")

    def python(command: list[str]) -> str:
        assert command[1] == "tools/requirements.py"
        return requirements(ROOT, command[2:])

    tilt = Tilt(ROOT, commands={"helm": helm, "python3": python}, subcommand=subcommand, said=said)
    tilt.evaluate()
    return tilt


@pytest.fixture(scope="module")
def tilt() -> Tilt:
    return evaluated()


@pytest.fixture(scope="module")
def deployed(tilt: Tilt) -> list[dict[str, Any]]:
    """The objects that Tilt is given."""
    [call] = tilt.calls["k8s_yaml"]
    return documents(call["yaml"])


def containers(one: dict[str, Any]) -> list[dict[str, Any]]:
    return one["spec"].get("template", one)["spec"]["containers"]


def test_every_service_has_an_image_from_the_dockerfile_of_all(tilt: Tilt) -> None:
    """Targets and arguments are those that the Dockerfile has."""
    images = {image["ref"]: image for image in tilt.calls["docker_build"]}
    assert set(images) == {f"almagest/{name}" for name in NAMES}
    text = (ROOT / "services/Dockerfile").read_text(encoding="utf-8")
    targets = re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE)
    arguments = set(re.findall(r"^ARG (\w+)", text, re.MULTILINE))
    assert {"dev", "prod"} <= set(targets)
    for name in NAMES:
        image = images[f"almagest/{name}"]
        assert (image["context"], image["dockerfile"]) == (".", "services/Dockerfile")
        assert image["target"] in targets
        assert set(image["build_args"]) <= arguments
        assert image["build_args"]["SERVICE"] == name


def test_an_image_can_be_made_of_what_tilt_sends(tilt: Tilt, tmp_path: Path) -> None:
    """The Dockerfile asks `tools/requirements.py` what a service needs and is made of: there, it says the same as here."""
    text = (ROOT / "services/Dockerfile").read_text(encoding="utf-8")
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_through = [line[1:] for line in ignored if line.startswith("!") and (ROOT / line[1:]).is_file()]
    assert "tools/requirements.py" in let_through
    for image in tilt.calls["docker_build"]:
        context, service = tmp_path / image["build_args"]["SERVICE"], f"services/{image['build_args']['SERVICE']}"
        for path in image["only"]:
            if (ROOT / path / "pyproject.toml").is_file():
                (context / path).mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / path / "pyproject.toml", context / path)
        for path in let_through:
            assert any(Path(path).is_relative_to(only) for only in image["only"]), path
            (context / path).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / path, context / path)
        for command in ([service], ["--own", service]):
            assert " ".join(["tools/requirements.py", *command[:-1]]) in text
            assert requirements(context, command) == requirements(ROOT, command)
        for path in requirements(context, ["--own", service]).split():
            assert (context / path).is_dir()


def requirements(root: Path, arguments: Sequence[str]) -> str:
    """What `python tools/requirements.py ...` prints in a tree, without another process."""
    told = io.StringIO()
    with pytest.MonkeyPatch.context() as here, redirect_stdout(told):
        here.setattr(sys, "argv", ["requirements.py", *arguments])
        runpy.run_path(str(root / "tools/requirements.py"), run_name="__main__")
    return told.getvalue()


def test_code_is_carried_to_where_the_image_has_it(tilt: Tilt) -> None:
    """All that a service is made of, to the directory that the target `dev` runs it from; what it needs is built anew."""
    text = (ROOT / "services/Dockerfile").read_text(encoding="utf-8")
    dev = text[text.index(" AS dev\n") :]
    assert re.search(r"^COPY --from=\S+ --chown=65532:65532 \S+ /app$", dev, re.MULTILINE)
    for image in tilt.calls["docker_build"]:
        first, *syncs = image["live_update"]
        assert first["made by"] == "fall_back_on"
        assert {sync["made by"] for sync in syncs} == {"sync"}
        trees = [sync["local_path"] for sync in syncs]
        assert f"services/{image['build_args']['SERVICE']}" in trees
        assert trees == [path for path in image["only"] if (ROOT / path / "pyproject.toml").is_file()]
        assert first["files"] == [f"{tree}/pyproject.toml" for tree in trees]
        assert [sync["remote_path"] for sync in syncs] == [f"/app/{tree}" for tree in trees]


def test_what_is_deployed_is_the_chart(tilt: Tilt, deployed: list[dict[str, Any]]) -> None:
    """Object by object, in the namespace, but for tests that helm would run, and root file systems that code is synced
    into.
    """
    rendered = [one for one in documents(RENDERED.read_text(encoding="utf-8")) if one]
    hooks = [one for one in rendered if "test" in one["metadata"].get("annotations", {}).get("helm.sh/hook", "")]
    assert len(deployed) == len(rendered) - len(hooks) + 1
    namespace, *given = deployed
    assert namespace["kind"] == "Namespace"
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for one, original in zip(given, [one for one in rendered if one not in hooks], strict=True):
        assert one["metadata"].pop("namespace") == namespace["metadata"]["name"]
        original["metadata"].pop("namespace", None)
        if one["kind"] == "Deployment" and one["metadata"]["name"].removeprefix("almagest-") in NAMES:
            for container in containers(one):
                assert container["securityContext"].pop("readOnlyRootFilesystem") is False
            for container in containers(original):
                del container["securityContext"]["readOnlyRootFilesystem"]
        assert one == original


def test_every_image_of_ours_that_is_deployed_is_built(tilt: Tilt, deployed: list[dict[str, Any]]) -> None:
    """By the name that Tilt goes by, and none in vain."""
    ours = {
        container["image"].rpartition(":")[0]
        for one in deployed
        if one["kind"] in WORKLOADS
        for container in containers(one)
        if container["image"].startswith("almagest/")
    }
    assert ours == {image["ref"] for image in tilt.calls["docker_build"]}


def test_every_resource_is_there_and_every_object_is_in_one(tilt: Tilt, deployed: list[dict[str, Any]]) -> None:
    """Workloads by their names, the others by selectors that mean one object each; Services follow their pods."""
    workloads = {one["metadata"]["name"] for one in deployed if one["kind"] in WORKLOADS}
    others = [f"{one['metadata']['name']}:{one['kind']}" for one in deployed if one["kind"] not in WORKLOADS]
    resources = tilt.calls["k8s_resource"]
    assert sorted(one["workload"] for one in resources if "workload" in one) == sorted(workloads)
    [configuration] = [one for one in resources if "objects" in one]
    assert len(set(others)) == len(others)
    assert sorted(configuration["objects"]) == sorted(one for one in others if not one.endswith(":Service"))
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in deployed if "template" in one.get("spec", {})]
    for service in (one for one in deployed if one["kind"] == "Service"):
        assert any(service["spec"]["selector"].items() <= label.items() for label in labels), service["metadata"]


def test_everything_waits_for_what_there_is_and_for_nothing_that_waits_for_it(tilt: Tilt) -> None:
    """Dependencies name resources, and make an order."""
    after = {one["new_name"]: one.get("resource_deps", []) for one in tilt.calls["k8s_resource"]}
    after |= {one["name"]: one["resource_deps"] for one in tilt.calls["local_resource"]}
    ready: set[str] = set()
    while len(ready) < len(after):
        more = {name for name, needed in after.items() if name not in ready and set(needed) <= ready}
        assert more, {name: needed for name, needed in after.items() if name not in ready}
        ready |= more
    assert {"configuration", "redis", "jaeger", "first-admin", *NAMES} <= ready
    for service in ("auth", "catalog-query", "event-store", "worker"):
        assert f"migrate-{service}" in after[service]


def test_ports_are_forwarded_once_each_and_to_ports_of_pods(tilt: Tilt, deployed: list[dict[str, Any]]) -> None:
    """None is one that the cluster's nodes have on this machine already."""
    ports = {
        one["metadata"]["name"]: {port["containerPort"] for port in containers(one)[0].get("ports", [])}
        for one in deployed
        if one["kind"] in WORKLOADS
    }
    taken = [mapping["hostPort"] for mapping in mappings()]
    for one in tilt.calls["k8s_resource"]:
        for forward in one.get("port_forwards", []):
            assert forward["container_port"] in ports[one["workload"]]
            taken.append(forward["local_port"])
    assert len(set(taken)) == len(taken)


def mappings() -> list[dict[str, Any]]:
    [cluster] = documents((ROOT / "k8s/kind.yaml").read_text(encoding="utf-8"))
    return cluster["nodes"][0]["extraPortMappings"]


def test_the_links_are_the_node_ports_of_the_chart(tilt: Tilt, deployed: list[dict[str, Any]]) -> None:
    """What kind maps to this machine is what the gateway and Jaeger open on their node."""
    opened = {
        port["nodePort"]: one["metadata"]["name"].removeprefix("almagest-")
        for one in deployed
        if one["kind"] == "Service"
        for port in one["spec"]["ports"]
        if "nodePort" in port
    }
    assert {mapping["containerPort"] for mapping in mappings()} == set(opened)
    here = {opened[mapping["containerPort"]]: mapping["hostPort"] for mapping in mappings()}
    links = {one["new_name"]: one["links"] for one in tilt.calls["k8s_resource"] if one.get("links")}
    assert set(links) == set(here) == {"gateway", "jaeger"}
    for name, shown in links.items():
        for link in shown:
            assert f"://localhost:{here[name]}" in link["url"]


def test_buttons_and_checks_run_what_there_is(tilt: Tilt) -> None:
    """Scripts that can be executed, and resources that are there to be triggered or shown beside."""
    names = {one["new_name"] for one in tilt.calls["k8s_resource"]} | {
        one["name"] for one in tilt.calls["local_resource"]
    }
    buttons = tilt.calls["cmd_button"]
    assert {button["text"] for button in buttons} == {
        "Load demo data",
        "Run end-to-end tests",
        "Rotate certificates",
        "Kill a pod",
    }
    assert len({button["name"] for button in buttons}) == len(buttons)
    for button in buttons:
        # The extension wants one of the two, and not both.
        assert ("resource" in button) != (button.get("location") == "nav")
        assert button.get("resource", "gateway") in names
        if button["argv"][0] == "tilt":
            assert button["argv"][1:] == ["trigger", button["name"].removeprefix("nav-")]
            assert button["argv"][2] in names
    commands = [button["argv"] for button in buttons] + [one["cmd"] for one in tilt.calls["local_resource"]]
    scripts = {word for command in commands for word in command if word.startswith("k8s/")}
    assert scripts
    for script in scripts:
        assert os.access(ROOT / script, os.X_OK), script


def test_a_pipeline_gets_what_is_delivered_and_runs_the_tests_at_once(tilt: Tilt) -> None:
    """`tilt ci`: production images of unchanged pods, the demo and the end-to-end tests; a laptop neither."""
    pipeline, laptop = evaluated("ci"), tilt
    assert {image["target"] for image in pipeline.calls["docker_build"]} == {"prod"}
    assert not any(image["live_update"] for image in pipeline.calls["docker_build"])
    assert "readOnlyRootFilesystem: false" not in pipeline.calls["k8s_yaml"][0]["yaml"]
    assert [one["auto_init"] for one in pipeline.calls["local_resource"]] == [True, True]
    assert [one["auto_init"] for one in laptop.calls["local_resource"]] == [False, False]
    assert pipeline.calls["ci_settings"][0]["timeout"]


def test_settings_are_heeded() -> None:
    """Another namespace, more values, fewer resources, no live update."""
    said = {
        "namespace": "elsewhere",
        "values": ["helm/almagest/values-small.yaml"],
        "resources": ["auth"],
        "live": False,
    }
    tilt = evaluated("up", **said)
    objects = documents(tilt.calls["k8s_yaml"][0]["yaml"])
    assert objects[0]["metadata"]["name"] == "elsewhere"
    assert {one["metadata"]["namespace"] for one in objects[1:]} == {"elsewhere"}
    assert tilt.calls["config_set_enabled_resources"] == [{"resources": ["auth"]}]
    assert {image["target"] for image in tilt.calls["docker_build"]} == {"prod"}


def test_a_parameter_that_tilt_does_not_know_is_noticed(tmp_path: Path) -> None:
    """The stand-ins are no more patient than Tilt."""
    (tmp_path / "Tiltfile").write_text('docker_build("x", context = ".", colour = "red")\n')
    with pytest.raises(Exception, match="colour"):
        Tilt(tmp_path, commands={}).evaluate()
