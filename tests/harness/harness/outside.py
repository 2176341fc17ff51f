"""A system that somebody else started: in containers, on a cluster, or by `make up`.

The end-to-end tests run against it when ALMAGEST_URL names it. Only those that are clients and nothing else can: a test
that kills a process, looks into a database or starts a system of its own has nothing to hold on to there.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.running import Reached

VARIABLES = ("ALMAGEST_URL", "ALMAGEST_CA", "ALMAGEST_EMAIL", "ALMAGEST_PASSWORD")
"""Where its gateway is, the certificates to trust, and who its admin is."""


def outside_system(environment: Mapping[str, str] = os.environ) -> Reached | None:
    """The system that the environment names, or None when it names none.

    Raises:
        pytest.UsageError: something is missing that is needed besides the URL.
    """
    url, ca, email, password = (environment.get(name, "") for name in VARIABLES)
    if not url:
        return None
    if missing := [name for name in VARIABLES if not environment.get(name)]:
        raise pytest.UsageError(f"ALMAGEST_URL names a system to test; {', '.join(missing)} must be set as well.")
    if not Path(ca).is_file():
        raise pytest.UsageError(f"ALMAGEST_CA names {ca}, which is no file.")
    return Reached(url=url.rstrip("/"), ca=Path(ca).absolute(), admin_email=email, admin_password=password)


def is_for_outside(item: pytest.Item) -> bool:
    """Whether a test can run against a system that is not ours: it asks for `reached`, and not for `system`."""
    asked = set[str](getattr(item, "fixturenames", ()))
    return "reached" in asked and "system" not in asked
