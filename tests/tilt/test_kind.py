"""k8s/kind.sh with programs that stand in for docker, kind, kubectl and helm: what it makes, in which order, and once."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .stand_ins import documents
from .test_tiltfile import ROOT

SCRIPT = ROOT / "k8s/kind.sh"
NEEDED = ("bash", "cat", "dirname", "grep", "head", "rm", "sed", "sort", "touch")
# Each notes what it is asked, and remembers in files what there is.
PROGRAMS = {
    "docker": """
case "$1" in
info) [ -e "$HERE/engine" ] ;;
run) touch "$HERE/registry" ;;
rm) rm -f "$HERE/registry" ;;
exec) [ "$2" != -i ] || cat >>"$HERE/log" ;;
network) touch "$HERE/connected" ;;
inspect)
  case "$3" in
  *Running*) [ -e "$HERE/registry" ] && echo true ;;
  *) [ -e "$HERE/connected" ] && echo there || echo ;;
  esac ;;
esac
""",
    "kind": """
case "$*" in
"version -q") cat "$HERE/version" ;;
"get clusters") cat "$HERE/clusters" ;;
"get nodes"*) echo almagest-control-plane ;;
create*) echo almagest >"$HERE/clusters" ;;
delete*) : >"$HERE/clusters" ;;
esac
""",
    "kubectl": "",
    "helm": '[ "$1" != version ] || echo v4.1.4',
    "tilt": "",
}


class Machine:
    """A machine with some programs on it, and nothing else on the PATH but what a shell needs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.programs = directory / "bin"
        self.programs.mkdir()
        for name in NEEDED:
            (self.programs / name).symlink_to(shutil.which(name) or "")
        (directory / "log").touch()
        (directory / "clusters").touch()
        (directory / "engine").touch()
        (directory / "version").write_text("0.33.0\n")

    def install(self, *names: str) -> None:
        for name in names:
            program = self.programs / name
            note = f'printf "%s\\n" "{name} $*" >>"$HERE/log"'
            program.write_text(f"#!/bin/sh\nHERE={self.directory}\n{note}\n{PROGRAMS[name]}")
            program.chmod(0o755)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.programs), "HOME": str(self.directory)}
        return subprocess.run(
            [SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    def asked(self) -> str:
        """What the programs were asked since last time."""
        log = self.directory / "log"
        said = log.read_text()
        log.write_text("")
        return said


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_what_is_missing_is_named_with_where_to_get_it(machine: Machine) -> None:
    """All of it at once."""
    done = machine.run("check")
    assert done.returncode == 1
    assert re.findall(r"^missing: (.*)$", done.stderr, re.MULTILINE) == ["docker", "kind", "helm", "kubectl", "tilt"]
    assert len(re.findall(r"^         https://", done.stderr, re.MULTILINE)) == 5
    assert machine.run("up").returncode == 1


def test_an_engine_that_does_not_run_and_a_kind_that_is_too_old_are_named(machine: Machine) -> None:
    """Before anything is made."""
    machine.install(*PROGRAMS)
    assert machine.run("check").returncode == 0
    (machine.directory / "engine").unlink()
    (machine.directory / "version").write_text("0.9.0\n")
    done = machine.run("up")
    assert done.returncode == 1
    assert "a running docker" in done.stderr
    assert "kind 0.27.0 or newer (this is 0.9.0)" in done.stderr
    assert "kind create" not in machine.asked()


def test_the_cluster_is_made_once_and_what_is_missing_of_it_every_time(machine: Machine) -> None:
    """A registry, the cluster, the way from one to the other, then what the chart stands on."""
    machine.install(*PROGRAMS)
    assert machine.run("up").returncode == 0
    asked = machine.asked()
    steps = (
        "docker run -d --restart=always -p 127.0.0.1:5001:5000 --name almagest-registry",
        "kind create cluster --config kind.yaml",
        "kubectl config use-context kind-almagest",
        '[host."http://almagest-registry:5000"]',
        "docker network connect kind almagest-registry",
        "kubectl apply -f registry.yaml",
        "helm upgrade --install cert-manager oci://",
        "helm upgrade --install metrics-server metrics-server",
    )
    places = [asked.index(step) for step in steps]
    assert places == sorted(places)
    assert machine.run("up").returncode == 0
    again = machine.asked()
    for step in steps:
        assert (step in again) == (step not in {steps[0], steps[1], steps[4]}), step


def test_down_leaves_nothing(machine: Machine) -> None:
    """Neither the cluster nor the registry."""
    machine.install(*PROGRAMS)
    assert machine.run("up").returncode == 0
    machine.asked()
    assert machine.run("down").returncode == 0
    assert "kind delete cluster --name almagest" in machine.asked()
    assert not (machine.directory / "registry").exists()
    assert (machine.directory / "clusters").read_text() == ""


def test_its_files_agree() -> None:
    """The cluster's name, the registry's port, the values of what is installed; and versions are pinned."""
    script = SCRIPT.read_text(encoding="utf-8")
    [cluster] = documents((ROOT / "k8s/kind.yaml").read_text(encoding="utf-8"))
    assert f"CLUSTER={cluster['name']}\n" in script
    [registry] = documents((ROOT / "k8s/registry.yaml").read_text(encoding="utf-8"))
    [port] = re.findall(r"^REGISTRY_PORT=(\d+)$", script, re.MULTILINE)
    assert f'host: "localhost:{port}"' in registry["data"]["localRegistryHosting.v1"]
    assert f"REGISTRY:-localhost:{port}" in (ROOT / "k8s/install.sh").read_text(encoding="utf-8")
    for name in re.findall(r"[\w-]+\.yaml", script):
        assert (ROOT / "k8s" / name).is_file(), name
    assert script.count("helm upgrade --install") == script.count('--version "$')


@pytest.mark.parametrize("script", sorted((ROOT / "k8s").glob("*.sh")), ids=lambda path: path.name)
def test_scripts_can_be_read_by_bash(script: Path) -> None:
    """And be executed."""
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
