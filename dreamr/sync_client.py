"""The client for programs without asyncio: the async one in a thread with a loop of its own."""

import asyncio
import functools
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from dreamr import errors, events
from dreamr.client import AsyncClient
from dreamr.tls import Tls

P = ParamSpec("P")
Result = TypeVar("Result")


class _LoopThread:
    """A thread that runs a loop, and whoever waits for what runs there."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._closing = False
        # Whatever is taken up before the end is cancelled by it, and behind it nothing is.
        self._lock = threading.RLock()
        self._streams = weakref.WeakSet[AsyncGenerator[Any, None]]()
        self._thread = threading.Thread(target=self._serve, name="dreamr-client", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """What `work` returns; what is raised here meanwhile, such as KeyboardInterrupt, cancels it first.

        Raises:
            RuntimeError: the client is closed.
            UnavailableError: it was closed meanwhile.
        """
        with self._lock:
            if self._closing:
                work.close()
                raise RuntimeError("the client is closed")
            waiting = self._begin(work)
        task = waiting()
        if task.cancelled():
            raise errors.UnavailableError("the client was closed")
        return task.result()

    def keep(self, stream: AsyncGenerator[Any, None]) -> None:
        """Has the end close it."""
        with self._lock:
            if not self._closing:
                self._streams.add(stream)

    def release(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs what lets go of something: by and by where the thread cannot wait for itself, and not at all
        where the end has seen to it.
        """
        if threading.current_thread() is self._thread:
            # The collector of garbage runs in any thread, this one too. It must not wait for the lock, whose
            # holder may wait for this thread; nor need it, as the end runs here.
            if self._closing:
                work.close()
            else:
                self._loop.create_task(work)
            return
        with self._lock:
            if self._closing:
                work.close()
                return
            waiting = self._begin(work)
        waiting()

    def stop(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Cancels all that runs, runs `last` and ends the thread."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        if threading.current_thread() is self._thread:
            self._loop.create_task(self._end(last)).add_done_callback(lambda _: self._loop.stop())
            return
        try:
            self._begin(self._end(last))()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    async def _end(self, last: Callable[[], Coroutine[Any, Any, None]] | None) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Each closes those within it. The loop closes all at once, which an outer one does not survive.
        for stream in list(self._streams):
            await stream.aclose()
        if last:
            await last()
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()

    def _begin(self, work: Coroutine[Any, Any, Result]) -> Callable[[], asyncio.Task[Result]]:
        """Starts a task, and returns how to wait for its end; it ends before the wait does, in any case."""
        ended: Future[asyncio.Task[Result]] = Future()
        started: list[asyncio.Task[Result]] = []

        def start() -> None:
            started.append(self._loop.create_task(work))
            started[0].add_done_callback(ended.set_result)

        def cancel() -> None:
            started[0].cancel()

        def wait() -> asyncio.Task[Result]:
            try:
                return ended.result()
            except BaseException:
                self._loop.call_soon_threadsafe(cancel)
                ended.result()
                raise

        self._loop.call_soon_threadsafe(start)
        return wait


def _waits(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, Result]],
) -> Callable[Concatenate["Client", P], Result]:
    """The same method, waited for."""

    @functools.wraps(method)
    def call(client: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Result:
        return client._thread.run(method(client._client, *args, **kwargs))

    return call


def _iterates(
    method: Callable[Concatenate[AsyncClient, P], AsyncGenerator[events.Event, None]],
) -> Callable[Concatenate["Client", P], Generator[events.Event, None, None]]:
    """The same method as a plain iterator; leaving it cancels the call before it returns."""

    @functools.wraps(method)
    def call(client: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Generator[events.Event, None, None]:
        stream = method(client._client, *args, **kwargs)
        client._thread.keep(stream)

        async def following() -> events.Event | None:
            return await anext(stream, None)

        try:
            while (event := client._thread.run(following())) is not None:
                yield event
        finally:
            client._thread.release(_closed(stream))

    return call


async def _closed(stream: AsyncGenerator[events.Event, None]) -> None:
    await stream.aclose()


class Client:
    """A connection to a cluster for programs without asyncio; use it as `with`.

    It may be shared by threads. Methods, arguments and errors are those of `AsyncClient`; `reason` and
    `resume` are plain iterators, and to leave one early, by `break` or an exception, cancels the session.
    So does KeyboardInterrupt while something is waited for.

    Raises:
        TlsError: a file of `tls` cannot be used.
        RuntimeError: from any method once the client is closed.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float = 120.0,
        resume_seconds: float = 15.0,
        tls: Tls | None = None,
        api_key: str | None = None,
    ) -> None:
        async def connected() -> AsyncClient:
            return AsyncClient(
                address, timeout=timeout, resume_seconds=resume_seconds, tls=tls, api_key=api_key
            )

        self._thread = _LoopThread()
        try:
            # Channels belong to the loop of the thread that opens them.
            self._client = self._thread.run(connected())
        except BaseException:
            self._thread.stop()
            raise
        # Also when it is forgotten, and at the latest before the interpreter ends.
        self._close = weakref.finalize(self, self._thread.stop, self._client.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; questions under way are cancelled."""
        self._close()

    reason = _iterates(AsyncClient.reason)
    resume = _iterates(AsyncClient.resume)
    ask = _waits(AsyncClient.ask)
    session = _waits(AsyncClient.session)
    cancel = _waits(AsyncClient.cancel)
