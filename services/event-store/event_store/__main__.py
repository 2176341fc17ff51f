"""The process of the event store: `python -m event_store [serve|migrate|verify|cut]`."""

from chassis.process import main

from event_store.administration import cut, verify
from event_store.bootstrap import bootstrap
from event_store.settings import Settings

if __name__ == "__main__":
    main(
        "event-store",
        Settings,
        bootstrap,
        migrations="event_store.migrations",
        commands={"verify": verify, "cut": cut},
    )
