"""catalog-command: decides, commands in, events out."""

from chassis.process import main

from catalog_command.bootstrap import bootstrap
from catalog_command.settings import Settings

if __name__ == "__main__":
    main("catalog-command", Settings, bootstrap)
