"""The client against a fake gateway over real gRPC."""

import asyncio
import hashlib
import inspect
import io
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image

import dreamr
from dreamr.v1 import common_pb2, gateway_pb2, gateway_pb2_grpc
from services.common.interceptor import CANCELLED_KEY, RETRY_KEY

Response = gateway_pb2.ReasonResponse
Context = grpc.aio.ServicerContext[Any, Any]

STARTED = Response(started=gateway_pb2.Started(session_id="s", policy="fpsr", window=4, alpha=0.7))
COMMIT = Response(
    commit=gateway_pb2.Commit(
        index=0,
        step=common_pb2.Step(text="one .", tokens=3, closes=True),
        author=gateway_pb2.AUTHOR_DRAFT,
        verdict=common_pb2.Verdict(accept=True, reason=common_pb2.VERDICT_REASON_SCORE, score=0.9, mass=1),
    )
)
FINISHED = Response(
    finished=gateway_pb2.Finished(answer="42", reason=gateway_pb2.FINISH_REASON_STOP, seconds=0.5)
)


FULL = (grpc.StatusCode.RESOURCE_EXHAUSTED, "no place", ((RETRY_KEY, "50"),))


class FakeGateway(gateway_pb2_grpc.ReasoningServiceServicer):
    """Does what a test tells it to."""

    def __init__(self) -> None:
        self.requests: list[gateway_pb2.ReasonRequest] = []
        self.asked = asyncio.Event()
        self.looked_up = asyncio.Event()
        self.hold = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.status: tuple[Any, ...] | None = None
        self.says = [STARTED, COMMIT, FINISHED]
        self.address = ""
        self.broken = False
        self.frozen = False
        self.diverged = False
        self.breaks_behind: list[int] = []
        self.pause = 0.0
        self.breaks_by: tuple[Any, ...] = (grpc.StatusCode.UNAVAILABLE, "gone")
        self.refusals = 0
        self.forgets = 0
        self.resumed: list[tuple[str, int]] = []
        self.digests: list[bytes] = []

    async def Reason(  # type: ignore[override]
        self, request: gateway_pb2.ReasonRequest, context: Context
    ) -> None:
        self.requests.append(request)
        self.asked.set()
        if self.status:
            await context.abort(*self.status)
        try:
            for response in self.says[: await self._breaks(len(self.says))]:
                await context.write(response)
            if self.broken:
                await asyncio.sleep(self.pause)
                await context.abort(*self.breaks_by)
            if len(self.says) < 3:
                await self.hold.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def Resume(  # type: ignore[override]
        self, request: gateway_pb2.ResumeRequest, context: Context
    ) -> None:
        self.resumed.append((request.session_id, request.from_index))
        self.digests.append(request.last_commit_digest)
        if self.refusals:
            self.refusals -= 1
            await context.abort(*FULL)
        if self.diverged:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "went on otherwise")
        if self.forgets:
            self.forgets -= 1
            await context.abort(grpc.StatusCode.NOT_FOUND, "none")
        # Started once more, and a commit more than was asked for: the client must not mind.
        says = [STARTED, *self.says[max(1, request.from_index) :]]
        for response in says[: await self._breaks(len(says))]:
            await context.write(gateway_pb2.ResumeResponse(happened=response))
        if self.broken:
            await asyncio.sleep(self.pause)
            await context.abort(*self.breaks_by)

    async def GetSession(self, request: Any, context: Context) -> gateway_pb2.GetSessionResponse:
        self.looked_up.set()
        await self._thaw()
        if request.session_id != "s":
            await context.abort(grpc.StatusCode.NOT_FOUND, "none")
        return gateway_pb2.GetSessionResponse(
            status=gateway_pb2.SESSION_STATUS_RUNNING, held=True, commits=[COMMIT.commit]
        )

    async def Cancel(self, request: Any, context: Context) -> gateway_pb2.CancelResponse:
        await self._thaw()
        return gateway_pb2.CancelResponse(cancelled=True)

    async def _thaw(self) -> None:
        if self.frozen:
            await self.hold.wait()

    async def _breaks(self, count: int) -> int:
        """Behind how many messages this stream breaks off."""
        self.broken = bool(self.breaks_behind)
        return self.breaks_behind.pop(0) if self.broken else count


@asynccontextmanager
async def serving(resume_seconds: float = 5.0) -> AsyncIterator[tuple[FakeGateway, dreamr.AsyncClient]]:
    """Resuming takes its time on a busy machine; tests of when it is given up say how soon."""
    gateway, server = FakeGateway(), grpc.aio.server()
    gateway_pb2_grpc.add_ReasoningServiceServicer_to_server(gateway, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    gateway.address = f"127.0.0.1:{port}"
    try:
        async with dreamr.AsyncClient(gateway.address, timeout=30, resume_seconds=resume_seconds) as client:
            yield gateway, client
    finally:
        gateway.hold.set()
        await server.stop(1)


async def test_events_are_typed() -> None:
    async with serving() as (_, client):
        seen = [event async for event in client.reason("q")]
    started, commit, finished = seen
    assert isinstance(started, dreamr.Started)
    assert isinstance(commit, dreamr.Commit)
    assert isinstance(finished, dreamr.Finished)
    assert (commit.author, commit.score) == ("draft", 0.9)
    assert commit.verdict is not None
    assert commit.verdict.reason == "score"
    assert finished.reason == "stop"


async def test_ask_puts_the_answer_together() -> None:
    async with serving() as (_, client):
        answer = await client.ask("q")
    assert (answer.answer, answer.session_id, len(answer.steps)) == ("42", "s", 1)


async def test_images_from_path_bytes_and_pillow(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 4))
    path = tmp_path / "image.png"
    image.save(path)
    async with serving() as (gateway, client):
        await client.ask("q", images=[path, str(path), path.read_bytes(), image])
        # What a JPEG may hold, and a PNG may not.
        await client.ask("q", images=[image.convert("CMYK")])
    sent = [one.data for one in gateway.requests[0].images]
    assert sent[:3] == [path.read_bytes()] * 3
    assert Image.open(io.BytesIO(sent[3])).size == (4, 4)
    (converted,) = gateway.requests[1].images
    assert Image.open(io.BytesIO(converted.data)).mode == "RGB"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"images": "grid.png"}, "images: must be a list"),
        ({"images": b"png"}, "images: must be a list"),
        ({"images": Image.new("L", (1, 1))}, "images: must be a list"),
        ({"images": [5]}, "images: must be paths.* not int"),
        ({"steps": "one"}, "steps: must be a list"),
        ({"rule": "guess"}, "rule: 'guess': must be one of tbvm"),
        ({"answer_by": "me"}, "answer_by: 'me': must be one of draft, target"),
        ({"window": -1}, "window: -1"),
        ({"alpha": "0.7"}, "alpha: '0.7'"),
        ({"temperature": "hot"}, "temperature: 'hot'"),
    ],
)
async def test_what_cannot_be_sent_is_refused_by_its_name(options: dict[str, Any], says: str) -> None:
    async with serving() as (gateway, client):
        with pytest.raises(dreamr.InvalidRequestError, match=says):
            await client.ask("q", **options)
    assert gateway.requests == []


async def test_ask_takes_every_option_of_reason() -> None:
    async with serving() as (gateway, client):
        await client.ask("q", temperature=0.5, seed=7, rule="digit", answer_by="draft", max_steps=3)
    options = gateway.requests[0].options
    assert (options.sampling.temperature, options.sampling.seed, options.max_steps) == (0.5, 7, 3)
    assert options.rule == common_pb2.VERIFICATION_RULE_DIGIT
    assert options.answer_by == gateway_pb2.AUTHOR_DRAFT
    assert list(inspect.signature(client.ask).parameters) == list(inspect.signature(client.reason).parameters)


async def test_an_answer_says_whether_it_was_cut_off() -> None:
    async with serving() as (gateway, client):
        assert (await client.ask("q")).reason == "stop"
        cut = gateway_pb2.Finished(answer="4", reason=gateway_pb2.FINISH_REASON_LENGTH)
        gateway.says = [STARTED, COMMIT, Response(finished=cut)]
        assert (await client.ask("q")).reason == "length"


async def test_words_of_a_newer_gateway_do_not_break_a_client() -> None:
    newer: Any = 99
    async with serving() as (gateway, client):
        gateway.says = [STARTED, COMMIT, Response(finished=gateway_pb2.Finished(answer="42", reason=newer))]
        assert (await client.ask("q")).reason == "unknown"


@pytest.mark.parametrize("address", ["", "a:1,,b:2"])
async def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(ValueError, match="must be HOST:PORT"):
        dreamr.AsyncClient(address)


async def test_closing_the_client_ends_what_is_under_way() -> None:
    async with serving() as (gateway, client):
        gateway.says, gateway.frozen = [STARTED], True
        under_way = [asyncio.ensure_future(one) for one in (client.ask("q"), client.session("s"))]
        async with asyncio.timeout(30):
            await gateway.asked.wait()
            await gateway.looked_up.wait()
            await client.close()
            for one in under_way:
                with pytest.raises(dreamr.UnavailableError, match="the client was closed"):
                    await one
            await gateway.cancelled.wait()
        for again in (client.ask("q"), client.session("s")):
            with pytest.raises(RuntimeError, match="closed"):
                await again


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, dreamr.InvalidRequestError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, dreamr.OverloadedError),
        (grpc.StatusCode.UNAVAILABLE, dreamr.UnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, dreamr.DeadlineError),
        (grpc.StatusCode.INTERNAL, dreamr.ServerError),
    ],
)
async def test_statuses_become_errors(status: grpc.StatusCode, error: type[dreamr.DreamrError]) -> None:
    async with serving(resume_seconds=0.5) as (gateway, client):
        gateway.status = status, "why"
        with pytest.raises(error, match="why"):
            await client.ask("q")


async def test_leaving_the_iterator_cancels_the_session() -> None:
    async with serving() as (gateway, client):
        gateway.says = [STARTED]
        async with aclosing(client.reason("q")) as events:
            async for _ in events:
                break
        async with asyncio.timeout(30):
            await gateway.cancelled.wait()


async def test_cancelling_the_task_cancels_the_session() -> None:
    async with serving() as (gateway, client):
        gateway.says = [STARTED]
        task = asyncio.create_task(client.ask("q"))
        async with asyncio.timeout(30):
            await gateway.asked.wait()
            task.cancel()
            await gateway.cancelled.wait()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_deadline_that_passes() -> None:
    async with serving() as (gateway, client):
        gateway.says = [STARTED]
        with pytest.raises(dreamr.DeadlineError):
            await client.ask("q", timeout=0.1)


async def test_nobody_there() -> None:
    async with dreamr.AsyncClient("127.0.0.1:1", timeout=2) as client:
        with pytest.raises(dreamr.UnavailableError):
            await client.ask("q")


async def test_an_answer_that_breaks_off_is_resumed_without_gap_or_repeat() -> None:
    commits = [Response() for _ in range(5)]
    for index, response in enumerate(commits):
        response.CopyFrom(COMMIT)
        response.commit.index = index
    async with serving() as (gateway, client):
        gateway.says = [STARTED, *commits, FINISHED]
        gateway.breaks_behind = [3, 3, 0]
        seen = [event async for event in client.reason("q")]
    assert [event.index for event in seen if isinstance(event, dreamr.Commit)] == [0, 1, 2, 3, 4]
    assert sum(isinstance(event, dreamr.Started) for event in seen) == 1
    assert gateway.resumed[0] == ("s", 2)
    assert len(gateway.resumed) == 3
    assert len(gateway.requests) == 1


async def test_a_pause_before_a_break_does_not_count() -> None:
    """Of a first stream, and of one that was resumed and has told nothing new."""
    async with serving(resume_seconds=0.5) as (gateway, client):
        gateway.breaks_behind, gateway.pause = [2, 1, 1], 0.7
        assert (await client.ask("q")).answer == "42"
    assert len(gateway.resumed) == 3


async def test_a_gateways_own_limit_for_a_call_is_not_the_callers() -> None:
    async with serving() as (gateway, client):
        gateway.breaks_behind, gateway.breaks_by = [2, 1], (grpc.StatusCode.DEADLINE_EXCEEDED, "late")
        assert (await client.ask("q")).answer == "42"
    assert len(gateway.resumed) == 2
    async with serving(resume_seconds=0.5) as (gateway, client):
        gateway.breaks_behind, gateway.breaks_by = (
            [2] + [1] * 100,
            (grpc.StatusCode.DEADLINE_EXCEEDED, "late"),
        )
        with pytest.raises(dreamr.DeadlineError, match="late"):
            await client.ask("q")
    assert len(gateway.resumed) < 20


async def test_what_never_began_is_asked_again_under_the_same_id() -> None:
    async with serving() as (gateway, client):
        gateway.breaks_behind = [0, 0]
        await client.ask("q")
    assert len(gateway.requests) == 3
    assert len({asked.request_id for asked in gateway.requests}) == 1
    assert gateway.requests[0].request_id


async def test_another_gateway_is_asked_where_one_is_not_there() -> None:
    async with serving() as (gateway, _):
        gateway.breaks_behind = [2]
        async with dreamr.AsyncClient(f"127.0.0.1:1, {gateway.address}", timeout=30) as both:
            answer = await both.ask("q")
            assert answer.answer == "42"
            assert await both.cancel("s")
    assert gateway.resumed


async def test_another_gateway_is_asked_where_one_is_full() -> None:
    async with serving() as (full, alone), serving() as (gateway, _):
        full.status = FULL
        async with dreamr.AsyncClient(f"{full.address},{gateway.address}", timeout=30) as both:
            assert (await both.ask("q")).answer == "42"
            gateway.status = FULL
            with pytest.raises(dreamr.OverloadedError, match="no place") as caught:
                await both.ask("q")
        assert caught.value.retry_after == 0.05
        with pytest.raises(dreamr.OverloadedError):
            await alone.ask("q")
    assert len(full.requests) == 3, "once for each question"


async def test_what_has_begun_waits_for_a_place() -> None:
    async with serving() as (gateway, client):
        gateway.breaks_behind, gateway.refusals = [2], 1
        assert (await client.ask("q")).answer == "42"
    assert len(gateway.resumed) == 2


async def test_what_has_begun_is_looked_for_until_it_is_written_back() -> None:
    async with serving() as (gateway, client):
        gateway.breaks_behind, gateway.forgets = [2], 1
        assert (await client.ask("q")).answer == "42"
        gateway.forgets = 1
        with pytest.raises(dreamr.NotFoundError):
            # One that others began may never have been.
            _ = [event async for event in client.resume("s")]


async def test_what_was_resumed_is_looked_for_as_well() -> None:
    async with serving() as (gateway, client):
        gateway.breaks_behind = [2]
        resumes = client.resume("s")
        async with aclosing(resumes) as events:
            seen = [await anext(events), await anext(events)]
            gateway.forgets = 1
            seen += [event async for event in events]
    assert [type(event) for event in seen] == [dreamr.Started, dreamr.Commit, dreamr.Finished]
    assert gateway.resumed == [("s", 0), ("s", 1), ("s", 1)]


async def test_the_last_commit_is_shown_so_that_nothing_else_is_told_behind_it() -> None:
    async with serving() as (gateway, client):
        gateway.breaks_behind, gateway.breaks_by = [2, 1], (grpc.StatusCode.UNAVAILABLE, "gone")
        await client.ask("q")
        assert gateway.digests == [hashlib.sha256(b"0\n1\none .").digest()] * 2
        gateway.breaks_behind = [1, 1]
        await client.ask("q")
        assert gateway.digests[2:] == [b""] * 2
        gateway.breaks_behind, gateway.diverged = [2], True
        with pytest.raises(dreamr.DivergedError, match="otherwise"):
            await client.ask("q")


async def test_a_call_that_a_server_cancelled_is_no_session_that_somebody_did() -> None:
    async with serving() as (gateway, client):
        gateway.breaks_behind, gateway.breaks_by = [2], (grpc.StatusCode.CANCELLED, "")
        assert (await client.ask("q")).answer == "42"
        assert len(gateway.resumed) == 1
        gateway.breaks_behind = [2]
        gateway.breaks_by = grpc.StatusCode.CANCELLED, "the session was cancelled", ((CANCELLED_KEY, "true"),)
        with pytest.raises(dreamr.SessionCancelledError, match="was cancelled"):
            await client.ask("q")
        assert len(gateway.resumed) == 1


async def test_it_is_not_looked_for_for_ever() -> None:
    async with serving(resume_seconds=0.5) as (gateway, client):
        gateway.breaks_behind = [2] + [1] * 100
        with pytest.raises(dreamr.UnavailableError, match="gone"):
            await client.ask("q")
    assert len(gateway.resumed) < 20


async def test_a_gateway_that_is_frozen_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dreamr.client, "_CALL_SECONDS", 2.0)
    async with serving() as (frozen, _), serving() as (gateway, _):
        frozen.frozen = True
        async with dreamr.AsyncClient(f"{frozen.address},{gateway.address}") as both:
            assert (await both.session("s")).status == "running"
            assert await both.cancel("s")
            gateway.frozen = True
            with pytest.raises(dreamr.DeadlineError):
                await both.cancel("s")


async def test_where_a_session_stands_and_its_end() -> None:
    async with serving() as (_, client):
        session = await client.session("s")
        assert (session.status, session.held, len(session.steps)) == ("running", True, 1)
        assert session.finished is None
        assert await client.cancel("s")
        with pytest.raises(dreamr.NotFoundError):
            await client.session("unknown")
