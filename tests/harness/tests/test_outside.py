"""Which system the end-to-end tests are about."""

from pathlib import Path

import pytest
from harness.outside import VARIABLES, is_for_outside, outside_system


def told(ca: Path) -> dict[str, str]:
    return dict(zip(VARIABLES, ("https://catalog.example/", str(ca), "admin@example.com", "secret"), strict=True))


def test_a_system_is_named_by_four_variables(tmp_path: Path) -> None:
    """And by none of them, it is one of our own."""
    ca = tmp_path / "ca.crt"
    ca.write_text("")
    system = outside_system(told(ca))
    assert system is not None
    assert (system.url, system.ca) == ("https://catalog.example", ca)
    assert (system.admin_email, system.admin_password) == ("admin@example.com", "secret")
    assert outside_system(told(ca) | {"ALMAGEST_URL": ""}) is None


@pytest.mark.parametrize("missing", VARIABLES[1:])
def test_half_a_system_is_refused_by_name(tmp_path: Path, missing: str) -> None:
    """Rather than another one be tested than was meant."""
    ca = tmp_path / "ca.crt"
    ca.write_text("")
    with pytest.raises(pytest.UsageError, match=missing):
        outside_system({name: value for name, value in told(ca).items() if name != missing})
    with pytest.raises(pytest.UsageError, match="no file"):
        outside_system(told(tmp_path / "nowhere"))


def test_what_is_no_client_stays_at_home(request: pytest.FixtureRequest) -> None:
    """A test that does not ask for the system that was reached is about something else."""
    assert not is_for_outside(request.node)
