"""What a person, their address, their password and their roles must be like."""

import pytest
from auth.domain.errors import InvalidFields
from auth.domain.people import (
    SCOPES,
    Role,
    normalised_email,
    registration,
)
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("Ada@Example.ORG", "ada@example.org"),
        ("admin@localhost", "admin@localhost"),
        ("first.last+tag@sub.example.co.uk", "first.last+tag@sub.example.co.uk"),
        ("o'neil@example.org", "o'neil@example.org"),
        ("a" * 64 + "@example.org", "a" * 64 + "@example.org"),
    ],
)
def test_addresses_are_kept_in_lower_case(written: str, kept: str):
    """An address is compared and stored in one form."""
    assert normalised_email(written) == kept


@pytest.mark.parametrize(
    "written",
    [
        "",
        "ada",
        "@example.org",
        "ada@",
        "ada@@example.org",
        "ada@exa mple.org",
        " ada@example.org",
        "ada@example.org\n",
        "ada@example.org\x00",
        ".ada@example.org",
        "ada.@example.org",
        "a..da@example.org",
        "ada@-example.org",
        "ada@example-.org",
        "ada@example..org",
        "ada@example.org.",
        "ada@[127.0.0.1]",
        '"ada"@example.org',
        "ada(comment)@example.org",
        "аda@example.org",  # the first letter is Cyrillic  # noqa: RUF001
        "ada@example.oRg\u212a",  # KELVIN SIGN, whose lower case is an ASCII k
        "a" * 65 + "@example.org",
        "ada@" + "a" * 64 + ".org",
        "ada@" + ".".join(["a" * 60] * 5),
    ],
)
def test_what_is_no_address_is_refused(written: str):
    """Only plain ASCII addresses that every mail program reads the same way are taken."""
    with pytest.raises(ValueError, match="must"):
        normalised_email(written)


@given(st.emails(domains=st.just("example.org")))
def test_normalising_twice_changes_nothing(address: str):
    """Normalisation is idempotent, so that the bucket of an address never depends on how often it was written."""
    try:
        once = normalised_email(address)
    except ValueError:
        return
    assert normalised_email(once) == once


def test_every_wrong_field_is_named_at_once():
    """A form is corrected in one go."""
    with pytest.raises(InvalidFields) as refusal:
        registration(email="ada", password="short", first_name=" ", last_name="Love\x00lace", roles=[])
    assert [field for field, _ in refusal.value.violations] == ["email", "password", "first_name", "last_name", "roles"]


def test_a_refusal_does_not_repeat_the_password():
    """What was typed as a password is in no message."""
    with pytest.raises(InvalidFields) as refusal:
        registration(email="ada@example.org", password="hunter2", first_name="A", last_name="L", roles=[Role.VIEWER])
    assert "hunter2" not in str(refusal.value)


def test_names_lose_surrounding_space():
    """Names are kept as people mean them."""
    person = registration(
        email="ada@example.org",
        password="a horse of no name",
        first_name=" Ada ",
        last_name="Lovelace",
        roles=[Role.VIEWER],
    )
    assert (person.first_name, person.last_name) == ("Ada", "Lovelace")


def test_roles_hold_the_scopes_of_the_lesser_ones():
    """Viewer is below editor is below admin, and only admins manage people."""
    assert SCOPES[Role.VIEWER] == {"catalog:read", "jobs:read"}
    assert SCOPES[Role.EDITOR] == SCOPES[Role.VIEWER] | {"catalog:write", "jobs:write"}
    assert SCOPES[Role.ADMIN] == SCOPES[Role.EDITOR] | {
        "users:read",
        "users:write",
        "audit:read",
        "projections:read",
        "projections:write",
    }
