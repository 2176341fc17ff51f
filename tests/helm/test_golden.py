"""What the chart renders, as it was when somebody last looked at it: `make helm-golden` renews that."""

import hashlib
from pathlib import Path

import pytest
import yaml

from .rendering import Document, Rendered, render, settled


def _text(rendered: Rendered) -> str:
    ordered = sorted(rendered.documents, key=lambda one: (one["kind"], one["metadata"]["name"]))
    return yaml.dump_all(
        map(settled, ordered), Dumper=yaml.CSafeDumper, sort_keys=True, width=120, default_flow_style=None
    )


@pytest.mark.parametrize("name", ["dev", "small", "large", "upgrade"])
def test_the_chart_renders_what_it_did(name: str, directory: Path, *, golden: bool) -> None:
    """A change of the chart shows in its renders, and is looked at there."""
    rendered = render("small", "--is-upgrade") if name == "upgrade" else render(name)
    if name == "upgrade":
        rendered = Rendered(name, tuple(_without(rendered, render("small"))))
    file = directory / f"{name}.yaml"
    if golden:
        file.parent.mkdir(exist_ok=True)
        file.write_text(_text(rendered))
    assert file.read_text() == _text(rendered), f"{file} differs; if that is meant: make helm-golden"


def _without(rendered: Rendered, other: Rendered) -> list[Document]:
    """What is not the same in both."""
    same = [settled(one) for one in other.documents]
    return [one for one in rendered.documents if settled(one) not in same]


def test_secrets_are_made_once_for_all_who_use_them() -> None:
    """The password that a service is given is the one that the server knows, in one rendering."""
    secret = render("dev").named("Secret", "almagest-redis")["stringData"]
    for user in ("gateway", "worker", "auth", "event-store"):
        password = secret[f"{user}-password"]
        assert f"rediss://{user}:{password}@" in secret[f"{user}-url"]
        digest = hashlib.sha256(password.encode()).hexdigest()
        assert f"user {user} on #{digest} resetkeys resetchannels ~almagest:" in secret["users.acl"]
    assert secret["users.acl"].startswith("user default off\n")
