"""One model by itself, by the same rules as sessions: keys, places, tokens, deadlines."""

from collections.abc import AsyncGenerator
from typing import Any

import grpc

from dreamr.v1 import completion_pb2, completion_pb2_grpc
from services.common.errors import UnavailableError, from_rpc
from services.gateway.callers import Caller
from services.gateway.cluster_parts import Cluster
from services.gateway.deadline import left
from services.gateway.entrance import Entrance
from services.gateway.images import check_images
from services.gateway.replicas import Replicas
from services.gateway.settings import GatewaySettings

PARTS = ("target", "draft")


class Completions:
    """Calls of `dreamr.v1.CompletionService` on behalf of callers."""

    def __init__(self, settings: GatewaySettings, cluster: Cluster, entrance: Entrance) -> None:
        self._settings = settings
        self._cluster = cluster
        self._entrance = entrance

    async def stream(
        self, part: str, request: completion_pb2.CompleteRequest, caller: Caller, deadline: float
    ) -> AsyncGenerator[completion_pb2.CompleteResponse, None]:
        """What a model writes; closing the generator cancels it.

        Args:
            part: one of PARTS.
            deadline: the event loop's time.

        Raises:
            ServiceError: it was refused, or failed.
        """
        entrance = self._entrance
        entrance.budgets.check(caller)
        async with entrance.admission.place(caller, left(deadline)):
            parts = (part for message in request.messages for part in message.parts)
            await check_images([part.image.data for part in parts if part.HasField("image")], self._settings)
            replicas: Replicas[Any] = self._cluster.draft if part == "draft" else self._cluster.target
            failure = UnavailableError(f"{part}: no address is known")
            for replica in replicas.order(request.id):
                told = False
                try:
                    with replica.call(), replica.span() as span:
                        stub = completion_pb2_grpc.CompletionServiceStub(replica.channel)
                        call = stub.Complete(request, timeout=left(deadline), metadata=span.metadata)
                        try:
                            async for response in call:
                                told = True
                                entrance.budgets.charge(caller, response.tokens)
                                yield response
                            return
                        finally:
                            # Leaving the loop cancels nothing by itself.
                            call.cancel()
                except grpc.aio.AioRpcError as error:
                    found = from_rpc(error, part)
                    # Another replica would begin anew, and what was told cannot be taken back.
                    if told or not isinstance(found, UnavailableError):
                        raise found from error
                    failure = found
            raise failure
