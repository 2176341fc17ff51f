"""What can be wrong, by name. The sentences are what a client reads."""

import math
from collections.abc import Collection, Sequence


class AuthError(Exception):
    """Any refusal of this service."""


class InvalidFields(AuthError):
    """Fields of a request are wrong; all of them are named at once."""

    def __init__(self, violations: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{field}: {description}" for field, description in violations))
        self.violations = tuple(violations)


class CommonPassword(InvalidFields):
    """The password is one of those that attackers try first."""

    def __init__(self) -> None:
        super().__init__([("password", "was leaked elsewhere and is guessed first: choose another")])


class EmailTaken(AuthError):
    """Someone has this e-mail address already."""

    def __init__(self) -> None:
        super().__init__("This e-mail address is taken.")


class CommandReused(AuthError):
    """A command id came again with another request."""

    def __init__(self) -> None:
        super().__init__("This command id was used for another request.")


class UnknownPerson(AuthError):
    """There is no such person."""

    def __init__(self) -> None:
        super().__init__("There is no such person.")


class RotationRunning(AuthError):
    """Somebody else is at it."""

    def __init__(self) -> None:
        super().__init__("A rotation of keys is running already.")


class UnknownErasure(AuthError):
    """Nobody with this id was forgotten."""

    def __init__(self) -> None:
        super().__init__("Nobody with this id was forgotten.")


class NotAboutYou(AuthError):
    """Someone asked about another person without being allowed to."""

    def __init__(self) -> None:
        super().__init__("Without the scope users:read you may only ask about yourself.")


class InvalidCredentials(AuthError):
    """The e-mail address or the password is wrong. Which one is not told, in words or in time."""

    def __init__(self) -> None:
        super().__init__("The e-mail address or the password is wrong.")


class InvalidRefreshToken(AuthError):
    """The refresh token is none of ours."""

    def __init__(self) -> None:
        super().__init__("The refresh token is not valid. Log in again.")


class RefreshTokenReused(AuthError):
    """A refresh token came twice, so one of the two came from a thief; the session is over for both."""

    def __init__(self) -> None:
        super().__init__("The refresh token was used before, so its session has been ended. Log in again.")


class ProofNeeded(AuthError):
    """Tokens that are bound to a key came without a proof of that key, or others with one."""

    def __init__(self) -> None:
        super().__init__("These tokens are bound to a key; send a DPoP proof made with that key, and only then.")


class SessionEnded(AuthError):
    """The session was logged out, revoked, or reached its end."""

    def __init__(self) -> None:
        super().__init__("The session has ended. Log in again.")


class InvalidAccessToken(AuthError):
    """The access token is forged, garbled, or meant for something else."""

    def __init__(self) -> None:
        super().__init__("The access token is not valid.")


class AccessTokenExpired(AuthError):
    """The access token was valid once."""

    def __init__(self) -> None:
        super().__init__("The access token has expired. Refresh the session.")


class ScopesNotHeld(AuthError):
    """A token was wanted for scopes that the person does not have."""

    def __init__(self, scopes: Collection[str]) -> None:
        self.scopes = tuple(sorted(scopes))
        super().__init__(f"The person does not hold: {', '.join(self.scopes)}.")


class NextKeyTooYoung(AuthError):
    """The next signing key was not published for long enough to be used."""

    def __init__(self) -> None:
        super().__init__(
            "The next signing key was published too recently: others may not know it yet. Try again later."
        )


class TooManyAttempts(AuthError):
    """Passwords were tried too often, of this person or from this address."""

    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(f"Too many attempts to log in. Wait {math.ceil(retry_after)} s.")


class NotYourself(AuthError):
    """Somebody would take their own rights, so that in the end nobody might have any."""

    def __init__(self) -> None:
        super().__init__("Nobody changes their own roles or disables themselves; another admin can.")


class UnknownSession(AuthError):
    """There is no such session, or it is another's."""

    def __init__(self) -> None:
        super().__init__("There is no such session.")


class ChangedMeanwhile(AuthError):
    """Others change the same person at the same time, again and again."""

    def __init__(self) -> None:
        super().__init__("The person is being changed by others at the same time. Try again.")


class TooManyLogins(AuthError):
    """More passwords wait to be checked than can be checked in time."""

    def __init__(self) -> None:
        super().__init__("Too many people are logging in at once. Try again in a moment.")


class UnknownAccessKey(AuthError):
    """There is no such key, or none that whoever asks may know of."""

    def __init__(self) -> None:
        super().__init__("There is no such access key.")


class AccessKeyEnded(AuthError):
    """The key has expired or was revoked, so that nothing can follow it."""

    def __init__(self) -> None:
        super().__init__("The access key has ended. Create a new one.")


class AccessKeyNotValid(AuthError):
    """A request was signed with a key that is unknown, has expired, or was revoked. Which of them is not told."""

    def __init__(self) -> None:
        super().__init__("The access key is not known, has expired, or was revoked.")


class AccessKeySignatureWrong(AuthError):
    """What was shown as a request signed by a key was not signed by it, or not just now."""

    def __init__(self) -> None:
        super().__init__("The signature is not one of this access key, or is not current.")


class NotByKey(AuthError):
    """A key was used for what is not its business: it may replace and revoke itself, no other."""

    def __init__(self) -> None:
        super().__init__("An access key may rotate or revoke itself, and no other. Log in for this.")


class TooManyAccessKeys(AuthError):
    """A person has as many keys as they may have."""

    def __init__(self, most: int) -> None:
        super().__init__(f"A person may have {most} access keys at a time. Revoke one that is not needed.")
