"""A password and its hash are shown by nobody."""

import copy
import dataclasses
import io
import json
import logging
import pickle

import pytest
from auth.adapters.tables import UserRow
from auth.domain.concealed import Concealed, Password, PasswordHash
from auth.domain.people import Role, registration
from chassis.ids import uuid7

SECRET = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2g"


def row() -> UserRow:
    return UserRow(id=uuid7(), email="ada@example.org", _password_hash=PasswordHash(SECRET))


@pytest.mark.parametrize("value", [PasswordHash(SECRET), Password(SECRET)])
def test_no_way_of_writing_a_value_shows_the_secret(value: Concealed):
    """repr, str, format and the default of a JSON encoder all answer a fixed text."""
    shown = [repr(value), str(value), f"{value}", f"{value!r}", f"{value!s}", f"{[value]}", "%s %r" % (value, value)]  # noqa: UP031
    shown.append(json.dumps({"value": value}, default=str))
    assert all("argon2" not in text and "concealed" in text for text in shown)


@pytest.mark.parametrize("value", [PasswordHash(SECRET), Password(SECRET)])
def test_a_value_has_no_dict_and_cannot_be_pickled_copied_or_hashed(value: Concealed):
    """The ways in which objects are stored end in an error."""
    assert not hasattr(value, "__dict__")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="never serialised"):
            pickle.dumps(value, protocol)
    with pytest.raises(TypeError, match="never serialised"):
        copy.deepcopy(value)
    with pytest.raises(TypeError):
        hash(value)
    with pytest.raises(TypeError):
        json.dumps(value)


def test_a_row_shows_no_hash():
    """Neither its repr nor what its attributes are printed as hold the hash, and it is never pickled."""
    user = row()
    assert SECRET not in repr(user)
    assert SECRET not in str(vars(user))
    with pytest.raises(TypeError, match="never serialised"):
        pickle.dumps(user)


def test_a_log_line_shows_no_hash():
    """Whatever is logged of a row or of a registration, with arguments or in a traceback, the secret is not among it."""
    stream = io.StringIO()
    logger = logging.getLogger("concealed")
    logger.addHandler(logging.StreamHandler(stream))
    user = row()
    person = registration(
        email="ada@example.org", password="open sesame, please", first_name="A", last_name="L", roles=[Role.VIEWER]
    )
    logger.warning("%s %r %s %r", user, vars(user), person, person)
    error = LookupError(user, person, user._password_hash)
    logger.error("failed", exc_info=error)
    written = stream.getvalue()
    assert "concealed" in written
    assert "argon2" not in written
    assert "sesame" not in written


def test_a_registration_as_a_dict_shows_no_password():
    """Even the dict of the dataclass holds the concealed value."""
    person = registration(
        email="ada@example.org", password="open sesame, please", first_name="A", last_name="L", roles=[Role.VIEWER]
    )
    fields = {field.name: getattr(person, field.name) for field in dataclasses.fields(person)}
    assert "sesame" not in str(fields)


def test_equal_secrets_are_equal_within_their_kind():
    """A hash never equals a password of the same text."""
    assert PasswordHash(SECRET) == PasswordHash(SECRET)
    assert PasswordHash(SECRET) != PasswordHash(SECRET + "x")
    assert PasswordHash(SECRET) != Password(SECRET)
    assert PasswordHash(SECRET) != SECRET
