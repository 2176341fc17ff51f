"""`python -m catalog_query serve|migrate`."""

from chassis.process import main

from catalog_query.bootstrap import SERVICE, bootstrap
from catalog_query.settings import Settings

if __name__ == "__main__":
    main(SERVICE, Settings, bootstrap, migrations="catalog_query.migrations")
