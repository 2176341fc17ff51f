"""Why a command was not executed although the domain had nothing against it."""


class RevisionConflict(Exception):
    """The product is not at the revision that the caller saw.

    Attributes:
        expected: the revision that the caller named.
        actual: the product's revision; -1 when there is no such product.
    """

    def __init__(self, *, expected: int, actual: int) -> None:
        self.expected = expected
        self.actual = actual
        what = f"is at revision {actual}" if actual >= 0 else "does not exist"
        super().__init__(f"The product {what}, not at revision {expected}. Read it again and decide anew.")


class CommandIdReused(Exception):
    """The command id was used before, for something else."""

    def __init__(self) -> None:
        super().__init__("This command id was used before, for another request. Nothing was changed.")


class TooContended(Exception):
    """Others changed the product each time between our decision and our append. Nothing was written."""

    def __init__(self, attempts: int) -> None:
        super().__init__(f"The product was changed by others {attempts} times in a row meanwhile; try again.")


class OutcomeUnknown(Exception):
    """The log did not say whether it wrote the events, and could not be asked."""

    def __init__(self) -> None:
        super().__init__(
            "Whether this took effect could not be found out in time. The same command id can safely be sent again."
        )
