"""A password and its hash are shown by nobody."""

import copy
import dataclasses
import io
import json
import logging
import pickle
import traceback
from datetime import UTC, datetime

import orjson
import pytest
import structlog
from auth.adapters.tables import UserRow
from auth.domain.concealed import Concealed, Password, PasswordHash
from auth.domain.people import Role, User, registration
from chassis.ids import uuid7
from chassis.telemetry.logging import configure_logging
from pydantic import BaseModel, ConfigDict, PrivateAttr

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


@dataclasses.dataclass
class Holder:
    """Something that somebody logs or stores whole."""

    row: UserRow
    password_hash: PasswordHash


class Answer(BaseModel):
    """A model that somebody puts a row's value into, with a private attribute for the hash."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    email: str
    _password_hash: PasswordHash = PrivateAttr()

    def __init__(self, email: str, password_hash: PasswordHash) -> None:
        super().__init__(email=email)
        self._password_hash = password_hash


def test_no_serialiser_takes_the_hash_out():
    """asdict, vars, orjson, pydantic, copy and pickle end in a fixed text or in an error."""
    holder = Holder(row(), PasswordHash(SECRET))
    with pytest.raises(TypeError, match="never serialised"):
        dataclasses.asdict(holder)
    with pytest.raises(TypeError, match="never serialised"):
        copy.deepcopy(vars(holder))
    with pytest.raises(TypeError, match="never serialised"):
        copy.copy(holder.row)
    with pytest.raises(TypeError):
        orjson.dumps(holder)
    with pytest.raises(TypeError):
        orjson.dumps(vars(holder.row), default=None)
    answer = Answer("ada@example.org", holder.password_hash)
    shown = [
        repr(holder), f"{holder}", str(vars(holder)), repr(vars(holder.row)),
        orjson.dumps(holder, default=str).decode(), orjson.dumps({"x": holder.password_hash}, default=repr).decode(),
        repr(answer), str(answer), f"{answer}", answer.model_dump_json(), str(answer.model_dump()), str(dict(answer)),
        orjson.dumps(answer.model_dump()).decode(), json.dumps(answer.model_json_schema()),
        traceback_with_locals(holder.password_hash),
    ]  # fmt: skip
    assert not [text for text in shown if "argon2" in text]
    with pytest.raises(TypeError, match="never serialised"):
        pickle.dumps(answer)
    with pytest.raises(TypeError, match="never serialised"):
        answer.model_copy(deep=True)


def traceback_with_locals(password_hash: PasswordHash) -> str:
    """A traceback as debuggers and error trackers write it: with the values of all variables."""
    user, hashes = row(), [password_hash]
    try:
        raise LookupError(user, hashes)  # noqa: TRY301 - what is raised is what is tested
    except LookupError as error:
        return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


def test_structlog_shows_neither_hash_nor_person(capfd):
    """Rows, values and users as they are in the domain, bound or logged, by the configuration of every service."""
    configure_logging("auth", "INFO")
    user = User(uuid7(), "ada@example.org", "Augusta", "Byron", frozenset({Role.VIEWER}), datetime.now(UTC))
    log = structlog.stdlib.get_logger("ours").bind(who=user)
    holder = Holder(row(), PasswordHash(SECRET))
    log.warning("seen", row=holder.row, holder=holder, hashes=[holder.password_hash], users={"a": [user]})
    log.warning("seen", variables=vars(holder.row))
    try:
        raise LookupError(user.email)  # noqa: TRY301 - what is raised is what is tested
    except LookupError:
        log.exception("failed")
    written = capfd.readouterr().err
    assert len(written.splitlines()) == 3
    for secret in ("argon2", "ada@example.org", "Augusta", "Byron"):
        assert secret not in written


async def test_sqlalchemy_echoes_neither_hash_nor_person(parts, capfd):
    """Not even when it is told to echo everything: parameters are hidden, and rows show what their types show."""
    for engine in parts.engines:
        engine.sync_engine.echo = "debug"
    email = f"{uuid7().hex}@example.org"
    person = registration(
        email=email, password="open sesame, please", first_name="Augusta", last_name="Byron", roles=[Role.VIEWER]
    )
    await parts.people.add(person, PasswordHash(SECRET), command_id=uuid7(), now=datetime.now(UTC))
    assert (await parts.people.credentials(email)).password_hash == PasswordHash(SECRET)
    for engine in parts.engines:
        engine.sync_engine.echo = False
    written = capfd.readouterr()
    written = written.out + written.err
    assert "INSERT INTO users" in written
    assert "PasswordHash(concealed)" in written
    for secret in ("argon2", email, "Augusta", "Byron", "sesame"):
        assert secret not in written
