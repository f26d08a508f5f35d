"""Steps of a generation with reports of its cost between them, so that a cancelled call's cost is known."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from services.common.steps import OnProgress, Written

INTERVAL_SECONDS = 0.025

Source = Callable[[OnProgress], AsyncIterator[Written]]


class Progress(AbstractAsyncContextManager[AsyncIterator["int | Written"]]):
    """Iterates over a source's steps and, at most once per interval, the tokens written so far.

    The source runs in a task of its own; leaving the block cancels and awaits it.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        # Bounded by the source: a report per interval at most, and one entry per step.
        self._events: asyncio.Queue[int | Written | BaseException | None] = asyncio.Queue()
        self._reported = 0.0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> AsyncIterator[int | Written]:
        self._task = asyncio.create_task(self._run(), name="generation")
        return self._iterate()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _report(self, tokens: int) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._reported >= INTERVAL_SECONDS:
            self._reported = now
            self._events.put_nowait(tokens)

    async def _run(self) -> None:
        try:
            async for written in self._source(self._report):
                self._events.put_nowait(written)
        except BaseException as error:
            # A cancellation from within as well: without an event the reader would wait for ever.
            self._events.put_nowait(error)
            raise
        self._events.put_nowait(None)

    async def _iterate(self) -> AsyncIterator[int | Written]:
        while (event := await self._events.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event
