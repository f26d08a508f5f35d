"""The gRPC services of the cluster; each runs as `python -m services.NAME`."""

import os

# Before gRPC is imported. By default it logs what a peer says with a GOAWAY frame, line breaks and all:
# anybody could write lines of the log.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
