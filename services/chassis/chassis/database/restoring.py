"""How a database says that a backup is being restored into it: by its comment, which any owner sets and anybody reads.

`almagest restore` writes it before the first row comes, and takes it away when everything was compared with what the
backup says. Until then it is not migrated, hence not served: half of a system must not look like one.
"""

from typing import Final

MARK: Final = "almagest: a restore is under way"
"""How the comment begins."""
COMMENT: Final = "select shobj_description(oid, 'pg_database') from pg_database where datname = current_database()"
"""The comment of the present database, which may be null."""


def is_restoring(comment: str | None) -> bool:
    """Whether a database with this comment is being restored."""
    return comment is not None and comment.startswith(MARK)
