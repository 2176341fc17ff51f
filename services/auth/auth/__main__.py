"""`python -m auth [serve|migrate|create-admin|rotate-keys]`."""

from chassis.process import main

from auth.administration import create_admin, rotate_keys
from auth.bootstrap import bootstrap
from auth.settings import Settings

if __name__ == "__main__":
    main(
        "auth",
        Settings,
        bootstrap,
        migrations="auth.migrations",
        commands={"create-admin": create_admin, "rotate-keys": rotate_keys},
    )
