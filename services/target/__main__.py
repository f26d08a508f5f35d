"""`python -m services.target`"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from dreamr.v1 import completion_pb2_grpc, target_pb2_grpc
from services.common.completion import CompletionService
from services.common.pair import Pair
from services.common.prompts import Prompts
from services.common.server import Opened, run
from services.common.triton import TritonModel
from services.target.service import TargetService
from services.target.settings import TargetSettings


def main() -> None:
    """Serves until told to stop."""
    settings = TargetSettings.load(sys.argv[1:])

    @asynccontextmanager
    async def open_service(server: grpc.aio.Server) -> AsyncIterator[Opened]:
        pair = Pair.load(settings.pair)
        model = TritonModel(settings.triton, pair.target.triton_model, settings.triton_name, settings.tls)
        try:
            prompts = Prompts(pair.target.template, pair.reasoning)
            parts = (model, prompts, pair.reasoning, settings.max_call_seconds)
            target_pb2_grpc.add_TargetServiceServicer_to_server(TargetService(*parts), server)
            completion_pb2_grpc.add_CompletionServiceServicer_to_server(CompletionService(*parts), server)
            yield Opened(model.probe)
        finally:
            await model.close()

    run(settings, "dreamr.v1.TargetService", open_service)


if __name__ == "__main__":
    main()
