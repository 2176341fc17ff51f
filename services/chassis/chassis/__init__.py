"""The microservice chassis: identity, policy, server and channel, telemetry, database and health, the same for every
service.
"""

import importlib
import os
import sys

# gRPC's core writes lines of its own to stderr, which are not JSON, and reads this when it is imported. What it has to
# say is in the status of calls too.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

# structlog loads rich wherever it is installed, such as beside the command line, to colour tracebacks: a tenth of the
# time in which a service starts, and three megabytes in each, which writes JSON.
if "rich" not in sys.modules:
    sys.modules["rich"] = None  # pyright: ignore[reportArgumentType] - an import of it fails, as if it were not there
    try:
        importlib.import_module("structlog")
    finally:
        del sys.modules["rich"]
