"""What tests stand on.

gRPC reads at its import whether it should take part in forks. It must not: tests fork servers (as another user, which
rules out vfork) while its threads run, and its handlers have been seen to kill the child before it became the server.
"""

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
