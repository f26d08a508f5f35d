"""`python -m services.verifier`"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from dreamr.v1 import target_pb2_grpc, verifier_pb2_grpc
from services.common.channel import open_channel
from services.common.health import probe_health
from services.common.pair import Pair
from services.common.server import Opened, run
from services.verifier.service import VerifierService
from services.verifier.settings import VerifierSettings


def main() -> None:
    """Serves until told to stop."""
    settings = VerifierSettings.load(sys.argv[1:])

    @asynccontextmanager
    async def open_service(server: grpc.aio.Server) -> AsyncIterator[Opened]:
        pair = Pair.load(settings.pair)
        async with open_channel(settings.target, "target", settings.tls) as channel:
            service = VerifierService(
                target_pb2_grpc.TargetServiceStub(channel),
                pair,
                top=settings.top,
                judge_seconds=settings.judge_seconds,
            )
            verifier_pb2_grpc.add_VerifierServiceServicer_to_server(service, server)
            yield Opened(lambda: probe_health(channel, "target"))

    run(settings, "dreamr.v1.VerifierService", open_service)


if __name__ == "__main__":
    main()
