"""From the chart that was released to this one, with the values that people have: a step that a cluster takes, and that
loses nothing. `make upgrade-test FROM=` takes an earlier commit's chart in place of the released one.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest

from .rendering import COMPONENTS, GIVEN, Document, documents, helm, render
from .upgrading import problems


@pytest.mark.parametrize("name", ["default", "dev", "small", "large"])
def test_the_released_chart_is_upgraded_to_this_one(name: str, earlier_chart: Path) -> None:
    """Their values are taken, nothing that holds data goes, nothing is changed that cannot be, hooks find their own."""
    theirs = earlier_chart / ("values.yaml" if name == "default" else f"values-{name}.yaml")
    before = list(documents(helm(["--values", str(theirs)], chart=earlier_chart)))
    after = list(documents(helm(["--values", str(theirs), "--is-upgrade"])))
    assert len(before) > len(COMPONENTS)
    assert problems(before, after, given=GIVEN[name]) == []


def _renamed(document: Document) -> None:
    document["metadata"]["name"] += "-2"


def _bigger(document: Document) -> None:
    document["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"] = "9Gi"


def _relabelled(document: Document) -> None:
    document["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"] = "another"


def _with_address(document: Document) -> None:
    del document["spec"]["clusterIP"]


def _of_another_account(document: Document) -> None:
    document["spec"]["template"]["spec"]["serviceAccountName"] = "new"


@pytest.mark.parametrize(
    ("kind", "name", "change", "said"),
    [
        ("StatefulSet", "almagest-redis", _renamed, "StatefulSet/almagest-redis: it would be deleted"),
        ("Secret", "almagest-redis", _renamed, "Secret/almagest-redis: it would be deleted"),
        ("StatefulSet", "almagest-postgres-jobs", _bigger, "spec.volumeClaimTemplates cannot change"),
        ("Deployment", "almagest-auth", _relabelled, "Deployment/almagest-auth: spec.selector cannot change"),
        ("Service", "almagest-auth", _with_address, "Service/almagest-auth: spec.clusterIP cannot change from 'None'"),
        ("Job", "almagest-first-admin", _of_another_account, "spec.template cannot change"),
    ],
)
def test_what_a_cluster_would_refuse_or_lose_is_told(
    kind: str, name: str, change: Callable[[Document], None], said: str
) -> None:
    """Each in one object of a chart that is otherwise the same."""
    before = render("dev").documents
    after = copy.deepcopy(before)
    (one,) = (one for one in after if one["kind"] == kind and one["metadata"]["name"].startswith(name))
    change(one)
    (told,) = problems(before, after)
    assert said in told


def test_a_hook_that_needs_what_comes_after_it_is_told() -> None:
    """A ServiceAccount, or a ConfigMap, that the earlier release does not have."""
    before = render("small").documents
    after = copy.deepcopy(render("small", "--is-upgrade").documents)
    job = next(one for one in after if one["metadata"].get("annotations", {}).get("helm.sh/hook") == "pre-upgrade")
    _of_another_account(job)
    job["spec"]["template"]["spec"]["volumes"].append({"name": "new", "configMap": {"name": "new"}})
    name = job["metadata"]["name"]
    assert problems(before, after, given=GIVEN["small"]) == [
        f"Job/{name}: it runs before ConfigMap/new is there",
        f"Job/{name}: it runs before ServiceAccount/new is there",
    ]


def test_what_is_told_to_be_kept_is_not_lost() -> None:
    """Helm leaves it where it is."""
    before = copy.deepcopy(render("dev").documents)
    secret = next(one for one in before if one["kind"] == "Secret")
    secret["metadata"].setdefault("annotations", {})["helm.sh/resource-policy"] = "keep"
    assert problems(before, [one for one in before if one is not secret]) == []
