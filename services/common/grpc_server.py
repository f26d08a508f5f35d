"""grpc.aio's server, without a way in which one call ends it.

grpc.aio (1.85) decodes the path of each call to a method that is not registered, in the loop that takes all
calls: one that is not UTF-8 ends the loop, and the server with it. Here those calls are refused unread. This
touches names that gRPC keeps to itself; `tests/unit/test_server.py` fails where they have changed.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import grpc
from grpc._cython import cygrpc
from grpc.aio import _server


def open_server(
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    options: Sequence[tuple[str, Any]] = (),
    max_calls: int | None = None,
) -> grpc.aio.Server:
    """As `grpc.aio.server`; more than `max_calls` at once are RESOURCE_EXHAUSTED."""
    server: Any = _Server(interceptors, options, max_calls)
    return cast(grpc.aio.Server, server)


class _Server(_server.Server):  # type: ignore[misc,name-defined,unused-ignore]
    def __init__(
        self,
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        options: Sequence[tuple[str, Any]],
        max_calls: int | None,
    ) -> None:
        self._loop = cygrpc.get_working_loop()
        self._server = _Core(self._loop, None, (), tuple(interceptors), tuple(options), max_calls)


class _Core(cygrpc.AioServer):  # type: ignore[misc]
    """Its loop is told of calls to registered methods only: generated code registers every method."""

    async def _request_call(self) -> Any:
        loop = asyncio.get_running_loop()
        refusing: set[asyncio.Task[None]] = set()
        while True:
            call = await super()._request_call()
            answer = cygrpc._handle_rpc("", _NoMethods(), (), call, loop, False)
            task = loop.create_task(cygrpc._schedule_rpc_coro(answer, call, loop, "unknown method"))
            refusing.add(task)
            task.add_done_callback(refusing.discard)


class _NoMethods:
    def resolve_handler(self, details: Any) -> None:
        """There is no method of that name: gRPC then says UNIMPLEMENTED."""
