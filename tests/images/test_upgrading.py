"""From the chart and the images of an earlier commit to these, by the steps of `helm upgrade`, while people use them.
`make images-upgrade-test FROM=` says which; what Kubernetes would refuse of it is known to `make helm-test`.
"""

import importlib.util
import io
import os
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from harness.door import Document, Door

from ..helm.rendering import COMPONENTS, Rendered, documents, helm
from .engine import Engine
from .released import Release, images_of, reached, released
from .unnoticed import unnoticed

ROOT = Path(__file__).resolve().parents[2]
COMMIT = os.environ.get("ALMAGEST_IMAGES_FROM", "")
PRODUCTS = 50


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of the commit."""
    directory = tmp_path_factory.mktemp("earlier")
    tar = subprocess.run(["git", "archive", COMMIT], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        archive.extractall(directory, filter="data")
    return directory


@pytest.fixture(scope="module")
def earlier_images(
    engine: Engine, base: str, tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, str]:
    """The image of each service, built as it was then."""
    spec = importlib.util.spec_from_file_location("earlier_images", tree / "tools" / "images.py")
    assert spec is not None
    assert spec.loader is not None
    then = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(then)
    secrets = then.of_pip(tmp_path_factory.mktemp("pip"), engine="podman")
    tags = {name: f"localhost/almagest/{name}:earlier" for name in COMPONENTS}
    for name, tag in tags.items():
        then.build("podman", name, tag=tag, base=base, environment=engine.environment, secrets=secrets)
    return tags


def rendered(tree: Path, chart: Path, tag: str, *options: str) -> Rendered:
    """A chart, with the values for development of the earlier one and other images."""
    values = ["--values", str(tree / "helm/almagest/values-dev.yaml"), "--set-string", f"image.tag={tag}"]
    return Rendered(tag, tuple(documents(helm([*values, *options], chart=chart))))


@pytest.fixture(scope="module")
def before(tree: Path) -> Rendered:
    return rendered(tree, tree / "helm/almagest", "earlier")


@pytest.fixture(scope="module")
def after(tree: Path) -> Rendered:
    return rendered(tree, ROOT / "helm/almagest", "present", "--is-upgrade", "--set", "migrations.upgrade=hook")


@pytest.fixture(scope="module")
def release(
    engine: Engine,
    earlier_images: Mapping[str, str],
    images: Mapping[str, str],
    servers: Mapping[str, str],
    before: Rendered,
    after: Rendered,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Release]:
    """The earlier release, with nobody in place of Jaeger."""
    known = images_of(before, earlier_images, servers) | images_of(after, images, servers)
    home = tmp_path_factory.mktemp("released")
    with released(engine, known, before, home, elsewhere={"almagest-jaeger": lambda _address: None}) as running:
        yield running


def products(door: Door) -> dict[str, Document]:
    return {one["sku"]: one for one in door.items("/v1/products", category="upgraded")}


async def test_an_upgrade_is_noticed_by_nobody_and_loses_nothing(
    engine: Engine, images: Mapping[str, str], release: Release, before: Rendered, after: Rendered, tmp_path: Path
) -> None:
    """Hooks, objects, and all services rolled at once; then every product is what it was, and can be changed."""
    where = reached(release, before, tmp_path)
    rows = [{"sku": f"UP-{n}", "kind": "general", "name": f"Part {n}", "category": "upgraded"} for n in range(PRODUCTS)]
    with Door.to(where) as door:
        job = door.await_end(door.submit_import(rows)["job_id"])
        assert (job["state"], job["progress"]["rows_created"]) == ("succeeded", PRODUCTS), job
        was = products(door)
        assert len(was) == PRODUCTS
    await unnoticed(where, lambda: release.upgrade(after))
    running = {
        engine.inspect(member.container.name)["ImageName"]
        for pod in release.pods.values()
        for name, member in pod.members.items()
        if name in COMPONENTS
    }
    assert running == set(images.values())
    with Door.to(where) as door:
        assert products(door) == was
        changed = door.call("PUT", "/v1/products/sku:UP-0/price", json={"amount": "1.00", "currency": "EUR"})
        assert changed.is_success, changed.text
        fresh = {"Almagest-Consistency": changed.headers["Almagest-Consistency"]}
        assert door.get("/v1/products/sku:UP-0", headers=fresh)["price"]["amount"] == "1.00"
