"""`python -m services.draft`"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from dreamr.v1 import completion_pb2_grpc, draft_pb2_grpc
from services.common.completion import CompletionService
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
            prompts = Prompts(pair.draft.template, pair.reasoning)
            shares = VersionShares(settings.versions)
            parts = (model, prompts, pair.reasoning, settings.max_call_seconds)
            draft_pb2_grpc.add_DraftServiceServicer_to_server(DraftService(*parts, shares), server)
            completion_pb2_grpc.add_CompletionServiceServicer_to_server(
                CompletionService(*parts, shares.stable), server
            )
            yield Opened(model.probe)
        finally:
            await model.close()

    run(settings, "dreamr.v1.DraftService", open_service)


if __name__ == "__main__":
    main()
