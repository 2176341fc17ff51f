"""Products: written through commands, read from the read model, explained from the log.

`one`: a product, as it is or was. `history`: what became of it. `lists`: pages, the search, many by their ids.
`changes`: all that writes. `schedules`: what is planned.
"""

from gateway.entrypoints.products import changes, history, lists, one, schedules

ROUTERS = (one.router, history.router, lists.router, changes.router, schedules.router)
