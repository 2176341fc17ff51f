"""`python -m worker [serve|migrate]`."""

from chassis.process import main

from worker.bootstrap import bootstrap
from worker.settings import Settings

if __name__ == "__main__":
    main("worker", Settings, bootstrap, migrations="worker.migrations")
