"""What a new password must be like: long, and not among the first that anybody would try."""

from typing import Any

import grpc
import pytest
from almagest.auth.v1 import auth_pb2 as wire
from almagest.auth.v1 import people_pb2
from auth.adapters.common_passwords import ListedPasswords
from auth.domain.concealed import Password
from auth.domain.errors import InvalidFields
from auth.domain.passwords import OF_THIS_SYSTEM, acceptable_password, new_password
from auth.domain.people import Role, registration
from chassis.errors import RemoteProblem
from hypothesis import given
from hypothesis import strategies as st

ADA = ("Ada.Lovelace@analytical-engine.example", "Ada", "Lovelace")
COMMON = "qwertyuiop123"


@pytest.mark.parametrize("length", [12, 13, 127, 128])
def test_passwords_of_12_to_128_characters_are_taken(length: int):
    """At log-in nothing but the length is asked."""
    assert acceptable_password("p" * length).reveal() == "p" * length


@pytest.mark.parametrize("text", ["", "p" * 11, "p" * 129, "ﬃ" * 50])
def test_passwords_too_short_or_too_long_are_refused(text: str):
    """The length counts after normalisation, which may make a text longer."""
    with pytest.raises(ValueError, match="12 to 128"):
        acceptable_password(text)


def test_a_password_is_the_same_however_the_keyboard_composes_it():
    """An accented letter may be one code point or two."""
    assert acceptable_password("pâte à choux") == acceptable_password("pâte à choux")


@pytest.mark.parametrize(
    "text",
    [
        "ada lovelace 1815",
        "LovelaceAda!2026",
        "lovelace.ada@analytical",
        "Lóvelace-Adá-12",
        "analytical-engine",
        "almagest-admin-1",
        "Password-Welcome!",
        "ada.almagest.2026",
        *(f"{word}{word}1234" for word in sorted(OF_THIS_SYSTEM)),
    ],
)
def test_own_words_with_little_besides_are_refused(text: str):
    """Whoever knows the person or the system tries these, whatever their case and accents."""
    with pytest.raises(ValueError, match="names, the e-mail address, or words of this system"):
        new_password(text, own=ADA)


@pytest.mark.parametrize("text", ["aaaaaaaaaaaa", "abababababab", "AaAaAaAaAaAa", "123412341234"])
def test_few_characters_again_and_again_are_refused(text: str):
    """Length alone is not enough."""
    with pytest.raises(ValueError, match="5 different characters"):
        new_password(text, own=ADA)


@pytest.mark.parametrize(
    "text",
    ["ada rode a horse of no name", "correct horse battery staple", "%&/(=?+*#'-.;:", "十二文字以上の秘密の言葉です"],
)
def test_any_other_password_of_that_length_is_taken(text: str):
    """A word of one's own in a phrase is no harm, and nothing is asked of kinds of characters."""
    assert new_password(text, own=ADA).reveal() == acceptable_password(text).reveal()


@given(st.text(min_size=12, max_size=40), st.lists(st.text(max_size=20), max_size=3))
def test_own_words_never_break_the_rule_itself(text: str, own: list[str]):
    """Whatever is typed is taken or refused with a sentence, and the sentence does not repeat it."""
    try:
        new_password(text, own=own)
    except ValueError as refusal:
        assert str(refusal).startswith("must")  # noqa: PT017 - a refusal is one of two good outcomes


def test_a_registration_knows_its_person_s_words():
    """Address and names are those of the same form."""
    with pytest.raises(InvalidFields) as refusal:
        registration(
            email="grace@example.org",
            password="grace.hopper1906",
            first_name="Grace",
            last_name="Hopper",
            roles=[Role.VIEWER],
        )
    assert [field for field, _ in refusal.value.violations] == ["password"]
    assert "1906" not in str(refusal.value)


@pytest.mark.parametrize(
    "text", [COMMON, COMMON.upper(), "passwordpassword", "1q2w3e4r5t6y", "correcthorsebatterystaple"]
)
async def test_what_was_leaked_often_is_listed(text: str):
    """In any case of its letters."""
    assert await ListedPasswords().include(Password(text))


async def test_what_was_never_leaked_is_not_listed():
    """The list is no rule that refuses everything."""
    assert not await ListedPasswords().include(Password("a horse of no name"))


async def _refusal(call: Any) -> tuple[str, str]:
    with pytest.raises(RemoteProblem) as failure:
        await call
    assert failure.value.code is grpc.StatusCode.INVALID_ARGUMENT
    [violation] = failure.value.problem.violations
    return violation.field, violation.description


async def test_a_common_password_is_refused_for_new_people_and_for_a_change(
    service, people, person, newcomer, acting, admin, password
):
    """One at a time, in bulk, and when it is changed; the field is named, and why."""
    root = await acting(admin.email)
    field, said = await _refusal(service.gateway.CreateUser(person(password=COMMON), metadata=root))
    assert field == "password"
    assert "guessed first" in said
    batch = people_pb2.BatchCreateUsersRequest(users=[person(password=COMMON), person()])
    answer = await people.BatchCreateUsers(batch, metadata=root)
    assert [result.WhichOneof("outcome") for result in answer.results] == ["problem", "user"]
    user = await newcomer()
    change = people_pb2.ChangePasswordRequest(user_id=user.user_id, present=password, password=COMMON)
    assert await _refusal(people.ChangePassword(change, metadata=await acting(user.email))) == (field, said)
    assert (await service.gateway.LogIn(wire.LogInRequest(email=user.email, password=password))).tokens


async def test_own_words_are_refused_for_a_change(people, newcomer, acting, password):
    """The person's names are known then."""
    user = await newcomer()
    change = people_pb2.ChangePasswordRequest(user_id=user.user_id, present=password, password="Ada-Lovelace-1")
    field, said = await _refusal(people.ChangePassword(change, metadata=await acting(user.email)))
    assert field == "password"
    assert "names" in said
