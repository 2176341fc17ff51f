"""Products: written through commands, read from the read model, explained from the log.

`one`: a product and its history. `lists`: pages, the search, many by their ids. `changes`: all that writes.
"""

from gateway.entrypoints.products import changes, lists, one

ROUTERS = (one.router, lists.router, changes.router)
