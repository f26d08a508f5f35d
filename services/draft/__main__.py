"""`python -m services.draft`"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from dreamr.v1 import draft_pb2_grpc
from services.common.pair import Pair
from services.common.prompts import Prompts
from services.common.server import Opened, run
from services.common.triton import TritonModel
from services.draft.service import DraftService
from services.draft.settings import DraftSettings
from services.draft.shares import VersionShares


def main() -> None:
    """Serves until told to stop."""
    settings = DraftSettings.load(sys.argv[1:])

    @asynccontextmanager
    async def open_service(server: grpc.aio.Server) -> AsyncIterator[Opened]:
        pair = Pair.load(settings.pair)
        model = TritonModel(settings.triton, pair.draft.triton_model, settings.triton_name, settings.tls)
        try:
            service = DraftService(
                model,
                Prompts(pair.draft.template, pair.reasoning),
                pair.reasoning,
                settings.max_call_seconds,
                VersionShares(settings.versions),
            )
            draft_pb2_grpc.add_DraftServiceServicer_to_server(service, server)
            yield Opened(model.probe)
        finally:
            await model.close()

    run(settings, "dreamr.v1.DraftService", open_service)


if __name__ == "__main__":
    main()
