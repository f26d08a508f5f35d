"""The gRPC services of the cluster; each runs as `python -m services.NAME`."""
