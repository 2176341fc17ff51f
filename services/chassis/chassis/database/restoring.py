"""How a database says that a backup is being restored into it: by its comment, which any owner sets and anybody reads.

`almagest backup restore` writes it before the first row comes, and takes it away when everything was compared with what
the backup says. Until then the database is not migrated, hence not served: half of a system must not look like one. The
programs that are part of the restore themselves are told which backup it is, in ALMAGEST_RESTORE.
"""

import os
from typing import Final

MARK: Final = "almagest: a restore is under way"
"""How the comment begins."""
COMMENT: Final = "select shobj_description(oid, 'pg_database') from pg_database where datname = current_database()"
"""The comment of the present database, which may be null."""


def is_open(comment: str | None) -> bool:
    """Whether a database with this comment may be used by this process."""
    own = os.environ.get("ALMAGEST_RESTORE")
    return not is_restoring(comment) or (own is not None and own in str(comment))


def is_restoring(comment: str | None) -> bool:
    """Whether a database with this comment is being restored."""
    return comment is not None and comment.startswith(MARK)
