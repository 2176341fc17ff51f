"""The microservice chassis: identity, policy, server and channel, telemetry, database and health, the same for every
service.
"""

import os

# gRPC's core writes lines of its own to stderr, which are not JSON, and reads this when it is imported. What it has to
# say is in the status of calls too.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
