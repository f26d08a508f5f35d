"""The async client."""

import asyncio
import inspect
import io
import itertools
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable
from contextlib import aclosing, asynccontextmanager
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Self

import grpc

from dreamr import errors, events
from dreamr.digest import commit_digest
from dreamr.tls import Tls
from dreamr.v1 import common_pb2, gateway_pb2, gateway_pb2_grpc

if TYPE_CHECKING:
    from PIL.Image import Image

# The gateway's limit on sizes decides, not the client's. A gateway that is silent for so long is gone.
_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", 256 << 20),
    ("grpc.max_receive_message_length", 256 << 20),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # what gRPC's core goes by (grpc/grpc#39239)
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
_CALL_SECONDS = 10.0
_WAIT_SECONDS, _MOST_WAIT_SECONDS = 0.1, 1.0
# Of Pillow's modes; others have no PNG, such as a JPEG's CMYK.
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA"})

P = ParamSpec("P")


def _whole(
    reason: Callable[Concatenate["AsyncClient", P], AsyncGenerator[events.Event, None]],
) -> Callable[Concatenate["AsyncClient", P], Coroutine[Any, Any, events.Answer]]:
    """`ask`, with the arguments of `reason`, so that they cannot drift."""

    async def ask(client: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> events.Answer:
        """Asks and waits for the whole answer; arguments and errors are those of `reason`."""
        async with aclosing(reason(client, *args, **kwargs)) as happened:
            return events.Answer.of([event async for event in happened])

    ask.__qualname__ = "AsyncClient.ask"
    signature = inspect.signature(reason).replace(return_annotation=events.Answer)
    ask.__signature__ = signature  # type: ignore[attr-defined]  # what `help` shows
    return ask


class AsyncClient:
    """A connection to a cluster; use it as `async with`. One client serves many questions at once.

    An answer that breaks off because its gateway has gone is resumed at the next one, without gap or repeat.

    Args:
        address: `HOST:PORT` of a gateway, or several with commas between.
        timeout: seconds that a question may take unless told otherwise.
        resume_seconds: how long an answer that broke off is looked for, from when it broke off, before
            UnavailableError; 0 not at all.
        tls: how to verify the gateways and what to show them; None for gateways without TLS.
        api_key: for gateways that want one. Without `tls` whoever is on the way can read it.

    Raises:
        ValueError: an address is empty.
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
        self._timeout = timeout
        self._resume_seconds = resume_seconds
        self._metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        self._closed = False
        addresses = [one.strip() for one in address.split(",")]
        if not all(addresses):
            raise ValueError(f"address {address!r}: must be HOST:PORT, or several with commas between")
        self._channels = [
            tls.open_channel(one, "gateway", _CHANNEL_OPTIONS)
            if tls
            else grpc.aio.insecure_channel(one, options=_CHANNEL_OPTIONS)
            for one in addresses
        ]
        self._stubs: list[gateway_pb2_grpc.ReasoningServiceAsyncStub] = [
            gateway_pb2_grpc.ReasoningServiceStub(channel) for channel in self._channels
        ]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; questions under way are cancelled, and end with UnavailableError."""
        self._closed = True
        for channel in self._channels:
            await channel.close()

    async def reason(
        self,
        question: str,
        *,
        images: "Iterable[str | PathLike[str] | bytes | Image]" = (),
        policy: str = "fpsr",
        window: int | None = None,
        alpha: float | None = None,
        max_steps: int | None = None,
        max_step_tokens: int | None = None,
        max_answer_tokens: int | None = None,
        max_reasoning_tokens: int | None = None,
        max_repeats: int | None = None,
        width: int | None = None,
        first_on_target: int | None = None,
        answer_by: Literal["target", "draft"] = "target",
        governor: bool | None = None,
        draft_version: int | None = None,
        temperature: float = 0.0,
        seed: int | None = None,
        activity: bool = False,
        background: bool = False,
        rule: Literal["tbvm", "digit", "confidence", "cascade"] | None = None,
        steps: Iterable[str] = (),
        closed: bool = False,
        timeout: float | None = None,
    ) -> AsyncGenerator[events.Event, None]:
        """Asks, and yields what happens: `Started`, each `Commit`, `Finished` (and `Activity` if wanted).

        Closing the iterator cancels the session everywhere; so does cancelling the task. Break out of it
        only within `contextlib.aclosing`.

        Args:
            images: paths, encoded bytes or PIL images.
            policy: "fpsr", "target" (the target alone), "specreason", "lookahead" or "exact".
            window: candidates in a row that may be in flight, 1 to 16.
            alpha: what a candidate's score is compared with, 0 to 1.
            width: candidates for the frontier by several draft workers at once, 1 to 8.
            first_on_target: steps at the start that the target writes alone.
            answer_by: who writes the answer behind the reasoning.
            governor: whether speculation may be lowered where it does not pay; None as the policy has it.
            draft_version: of the draft, where several are loaded; None as the shares of versions have it.
            max_reasoning_tokens: tokens of the committed steps, after which the answer is written.
            max_repeats: how often one step may be committed before the answer is written.
            background: the session is worked on to its end, also when this iterator is closed and when its
                gateway has gone; `session` and `resume` tell what came of it.
            rule: what candidates are judged by; None as the policy has it.
            steps: of the reasoning, to take for granted; commits count from 0 behind them.
            closed: the steps close the reasoning, and the answer alone is to be written.
            timeout: seconds; the client's own by default.

        Raises:
            DreamrError: see `dreamr.errors`; InvalidRequestError for a value of the wrong type, too.
            OSError: an image cannot be read.
        """
        options = gateway_pb2.ReasonOptions(
            answer_by=_number("answer_by", answer_by, gateway_pb2.Author, "AUTHOR_"),
            rule=_number("rule", rule, common_pb2.VerificationRule, "VERIFICATION_RULE_"),
        )
        _fill(
            options,
            policy=policy,
            window=window,
            alpha=alpha,
            max_steps=max_steps,
            max_step_tokens=max_step_tokens,
            max_answer_tokens=max_answer_tokens,
            max_reasoning_tokens=max_reasoning_tokens,
            max_repeats=max_repeats,
            width=width,
            first_on_target=first_on_target,
            governor=governor,
            draft_version=draft_version,
            activity=activity,
        )
        _fill(options.sampling, temperature=temperature, seed=seed)
        if isinstance(steps, str):
            raise errors.InvalidRequestError("steps: must be a list of texts")
        if isinstance(images, str | bytes | PathLike) or hasattr(images, "save"):
            raise errors.InvalidRequestError("images: must be a list, also of a single one")
        given = [common_pb2.Step(text=step) for step in steps]
        if closed:
            given.append(common_pb2.Step(closes=True))
        request = gateway_pb2.ReasonRequest(
            question=question,
            images=[common_pb2.Image(data=await asyncio.to_thread(_read, image)) for image in images],
            options=options,
            request_id=uuid.uuid4().hex,
            background=background,
            steps=given,
        )
        deadline = asyncio.get_running_loop().time() + (self._timeout if timeout is None else timeout)
        async with aclosing(self._told(request, deadline)) as told:
            async for response in told:
                if event := events.from_proto(response):
                    yield event

    async def resume(
        self, session_id: str, *, from_index: int = 0, timeout: float | None = None
    ) -> AsyncGenerator[events.Event, None]:
        """Goes on with a session: `Started`, the commits from an index on, and then what is still to happen.

        Raises:
            DreamrError: see `dreamr.errors`; NotFoundError when there is no such session.
        """
        deadline = asyncio.get_running_loop().time() + (self._timeout if timeout is None else timeout)
        async with aclosing(self._told(None, deadline, session_id, from_index)) as told:
            async for response in told:
                if event := events.from_proto(response):
                    yield event

    async def _told(
        self,
        request: gateway_pb2.ReasonRequest | None,
        deadline: float,
        session_id: str = "",
        commits: int = 0,
    ) -> AsyncGenerator[gateway_pb2.ReasonResponse, None]:
        """What a session tells, each commit once, over as many streams as it takes.

        Args:
            request: begins it; None where it has begun, as `session_id`, with so many commits known.
        """
        clock = asyncio.get_running_loop().time
        started, digest = False, b""
        first: errors.DreamrError | None = None
        give_up, wait = 0.0, _WAIT_SECONDS
        self._check_open()
        for attempt, stub in enumerate(itertools.cycle(self._stubs), start=1):
            alive: float | None = None
            try:
                stream = self._stream(stub, request, session_id, commits, digest, deadline - clock())
                async with aclosing(stream) as responses:
                    async for response in responses:
                        alive = alive or clock()
                        if response.HasField("started"):
                            if started:
                                continue
                            started, session_id = True, response.started.session_id
                            first = None
                        elif response.HasField("commit"):
                            if response.commit.index < commits:
                                continue
                            commits, digest = response.commit.index + 1, commit_digest(response.commit)
                            first = None
                        yield response
                        if response.HasField("finished"):
                            return
                failure: errors.DreamrError = errors.ServerError("the stream ended without an answer")
            except grpc.aio.AioRpcError as error:
                failure = errors.from_rpc(error)
                if isinstance(failure, errors.OverloadedError):
                    if not session_id and attempt >= len(self._stubs):
                        # Nothing has begun, and nobody has room: the caller knows best what to do.
                        raise failure from error
                elif isinstance(failure, errors.NotFoundError) and started:
                    pass  # a store that came back empty: the session's gateway is about to write it back
                elif isinstance(failure, errors.DeadlineError) and clock() + wait < deadline:
                    pass  # the gateway's own limit for a call, not the caller's
                elif not isinstance(failure, errors.UnavailableError):
                    raise failure from error
            # The gateway has gone, or its target: the session is kept, and another may go on with it.
            # What happened first tells more than how the attempts to go on failed; a stream that has lasted
            # had gone on.
            lasted = alive is not None and clock() - alive >= self._resume_seconds
            if first is None or lasted:
                first, give_up, wait = failure, clock() + self._resume_seconds, _WAIT_SECONDS
            pause = wait
            if isinstance(failure, errors.OverloadedError):
                pause = max(wait, failure.retry_after or 0) if session_id else 0
            if clock() + pause >= min(give_up, deadline):
                raise first
            await asyncio.sleep(pause)
            wait = min(wait * 2, _MOST_WAIT_SECONDS)

    async def _stream(
        self,
        stub: "gateway_pb2_grpc.ReasoningServiceAsyncStub",
        request: gateway_pb2.ReasonRequest | None,
        session_id: str,
        commits: int,
        digest: bytes,
        seconds: float,
    ) -> AsyncGenerator[gateway_pb2.ReasonResponse, None]:
        """One stream of the session: its first, or what comes behind the commits that are known."""
        if self._closed:
            raise errors.UnavailableError("the client was closed")
        call: Any
        if resumes := request is None or bool(session_id):
            asked = gateway_pb2.ResumeRequest(
                session_id=session_id, from_index=commits, last_commit_digest=digest
            )
            call = stub.Resume(asked, timeout=seconds, metadata=self._metadata)
        else:
            call = stub.Reason(request, timeout=seconds, metadata=self._metadata)
        try:
            async with self._noticing_close():
                async for message in call:
                    yield message.happened if resumes else message
        finally:
            call.cancel()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the client is closed")

    @asynccontextmanager
    async def _noticing_close(self) -> AsyncIterator[None]:
        """gRPC ends calls of a channel that is closed as if their task had been cancelled."""
        try:
            yield
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise errors.UnavailableError("the client was closed") from None
            raise

    async def session(self, session_id: str) -> events.Session:
        """Where a session stands.

        Raises:
            DreamrError: see `dreamr.errors`; NotFoundError when there is none.
        """
        request = gateway_pb2.GetSessionRequest(session_id=session_id)
        return events.session_from_proto(await self._any(lambda stub: stub.GetSession, request))

    async def cancel(self, session_id: str) -> bool:
        """Ends a session, whichever gateway works on it; false when there was nothing to end.

        Raises:
            DreamrError: see `dreamr.errors`.
        """
        request = gateway_pb2.CancelRequest(session_id=session_id)
        return bool((await self._any(lambda stub: stub.Cancel, request)).cancelled)

    async def _any(
        self, method: "Callable[[gateway_pb2_grpc.ReasoningServiceAsyncStub], Any]", request: Any
    ) -> Any:
        """What the first gateway that can be reached says; they share the time for a call."""
        clock = asyncio.get_running_loop().time
        failure, deadline = errors.DreamrError(), clock() + _CALL_SECONDS
        self._check_open()
        for left, stub in zip(range(len(self._stubs), 0, -1), self._stubs, strict=True):
            seconds = (deadline - clock()) / left
            try:
                async with self._noticing_close():
                    return await method(stub)(request, timeout=seconds, metadata=self._metadata)
            except grpc.aio.AioRpcError as error:
                failure = errors.from_rpc(error)
                if not isinstance(failure, errors.UnavailableError | errors.DeadlineError):
                    raise failure from error
        raise failure

    ask = _whole(reason)


def _fill(message: gateway_pb2.ReasonOptions | common_pb2.Sampling, **values: Any) -> None:
    """Sets the fields that are not None.

    Raises:
        InvalidRequestError: a value is of the wrong type, or beyond its field's; protobuf does not say whose.
    """
    for name, value in values.items():
        if value is None:
            continue
        try:
            setattr(message, name, value)
        except (TypeError, ValueError) as error:
            raise errors.InvalidRequestError(f"{name}: {value!r}: {error}") from error


def _number(field: str, name: str | None, kind: Any, prefix: str) -> Any:
    """The number of an enum's value by our name for it.

    Raises:
        InvalidRequestError: there is none of that name.
    """
    names = {key.removeprefix(prefix).lower(): value for key, value in kind.items() if value}
    if name is not None and name not in names:
        raise errors.InvalidRequestError(f"{field}: {name!r}: must be one of {', '.join(names)}")
    return name and names[name]


def _read(image: "str | PathLike[str] | bytes | Image") -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | PathLike):
        return Path(image).read_bytes()
    if not hasattr(image, "save"):
        raise errors.InvalidRequestError(
            f"images: must be paths, encoded bytes or PIL images, not {type(image).__name__}"
        )
    buffer = io.BytesIO()
    (image if image.mode in _PNG_MODES else image.convert("RGB")).save(buffer, format="PNG")
    return buffer.getvalue()
