"""One session is one trace across all services, closed however it ends; and what becomes of spans."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import prometheus_client
import pytest
from openai import AsyncOpenAI, BadRequestError
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode

from dreamr.v1 import draft_pb2_grpc, gateway_pb2, target_pb2_grpc, verifier_pb2_grpc
from services.common import collector, tracing
from services.common.interceptor import StatusInterceptor
from services.common.prompts import Prompts
from services.common.triton import TritonModel
from services.draft.service import DraftService
from services.draft.settings import DraftSettings
from services.gateway.memory_store import MemoryStore
from services.target.service import TargetService
from services.verifier.service import VerifierService
from tests.otlp_receiver import Receiver
from tests.unit.fake_services import FakeServices, busy, idle
from tests.unit.fake_triton import Say, Seen, serving, serving_triton
from tests.unit.running_gateway import PAIR, commits, gateway, let_go, refused, request
from tests.unit.test_service_calls import PAIR as JUDGED
from tests.unit.test_service_calls import judged

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
OTHER = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-{CALLER}-01"
PARTS = {"draft", "rival", "verdict", "answer"}


class Spans(SpanProcessor):
    """Every span that was begun, and every one that has ended."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.begun += 1

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)

    def named(self, *names: str) -> list[ReadableSpan]:
        return [span for span in self.ended if span.name in names]

    async def settled(self) -> None:
        """Every one that was begun ends, though servers hear a little later that a caller has gone."""
        async with asyncio.timeout(5):
            while self.begun != len(self.ended):  # noqa: ASYNC110 - the other side of a socket
                await asyncio.sleep(0.005)


@pytest.fixture
def spans() -> Iterator[Spans]:
    found = Spans()
    with tracing.traced("test", found):
        yield found


def drafting(seen: Seen) -> list[Say]:
    closes = seen.prompt.count("step .\n\n") == 2
    return [Say("step .\n</think>" if closes else "step .\n\n", "stop", wait=0.02)]


def rivalling(seen: Seen) -> list[Say]:
    """The target: a judge that agrees, an answer, and rivals that come to nothing in time."""
    if "logprobs" in seen.parameters:
        return [Say(wait=0.05), *judged(0.9, 0.05)]
    return [Say("step"), Say(" .\n\n", "stop", wait=30)] if "stop" in seen.parameters else [Say("42", "stop")]


@asynccontextmanager
async def real_services() -> AsyncIterator[dict[str, str]]:
    """Draft, target and verifier as they are; only Triton is a fake. Yields their addresses."""
    prompts = Prompts(PAIR.target.template, PAIR.reasoning)
    interceptors = [StatusInterceptor()]
    async with serving_triton(drafting) as (_, draft_triton), serving_triton(rivalling) as (_, triton):
        models = [TritonModel(draft_triton, "draft"), TritonModel(triton, "target")]
        services = (
            DraftService(models[0], prompts, PAIR.reasoning, 30),
            TargetService(models[1], prompts, PAIR.reasoning, 30),
        )

        def add(server: grpc.aio.Server) -> None:
            draft_pb2_grpc.add_DraftServiceServicer_to_server(services[0], server)
            target_pb2_grpc.add_TargetServiceServicer_to_server(services[1], server)

        async with (
            serving(add, interceptors=interceptors) as first,
            grpc.aio.insecure_channel(first) as channel,
        ):
            stub = target_pb2_grpc.TargetServiceStub(channel)
            verifier = VerifierService(stub, JUDGED, top=20, judge_seconds=5)

            def add_verifier(server: grpc.aio.Server) -> None:
                verifier_pb2_grpc.add_VerifierServiceServicer_to_server(verifier, server)

            async with serving(add_verifier, interceptors=interceptors) as second:
                yield {"draft": first, "target": first, "verifier": second}
        for model in models:
            await model.close()


def ids(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def cancelled(span: ReadableSpan) -> bool:
    return bool(attributes(span).get(tracing.CANCELLED))


def failed(span: ReadableSpan) -> bool:
    return span.status.status_code is StatusCode.ERROR


def overlap(one: ReadableSpan, other: ReadableSpan) -> bool:
    assert one.start_time
    assert one.end_time
    assert other.start_time
    assert other.end_time
    return one.start_time < other.end_time and other.start_time < one.end_time


async def test_a_session_is_one_trace_of_work_that_overlaps(spans: Spans) -> None:
    async with real_services() as addresses, gateway(addresses=addresses) as running:
        call = running.stub.Reason(request(), timeout=10, metadata=(("traceparent", PARENT),))
        told = [response async for response in call]
        await spans.settled()
    assert len(commits(told)) == 3
    assert {span.context.trace_id for span in spans.ended if span.context} == {int(TRACE, 16)}
    assert not any(map(failed, spans.ended))

    parents = {ids(span): span for span in spans.ended}

    def lineage(span: ReadableSpan) -> list[str]:
        above = parents.get(span.parent.span_id) if span.parent else None
        return [span.name, *(lineage(above) if above else ())]

    front = ["session", "dreamr.v1.ReasoningService/Reason"]
    asked = spans.named(front[1])[0]
    assert asked.kind is SpanKind.SERVER
    assert asked.parent is not None
    assert asked.parent.span_id == int(CALLER, 16)
    ways = {tuple(lineage(span)) for span in spans.named("triton")}
    generate, answer, score, verify, draft = (
        f"dreamr.v1.{name}"
        for name in (
            "TargetService/Generate",
            "TargetService/Answer",
            "TargetService/Score",
            "VerifierService/Verify",
            "DraftService/Draft",
        )
    )
    assert ways == {
        ("triton", draft, "call draft", "draft", *front),
        ("triton", generate, "call target", "rival", *front),
        ("triton", score, "call target", verify, "call verifier", "verdict", *front),
        ("triton", answer, "call target", "answer", *front),
    }
    session_id = told[0].started.session_id
    for name in (front[0], front[1], generate, answer, verify, draft):
        assert {attributes(span)["session.id"] for span in spans.named(name)} == {session_id}, name

    rivals = spans.named("rival")
    for name in ("draft", "verdict"):
        assert any(overlap(rival, other) for rival in rivals for other in spans.named(name)), name
    # Accepted every time, so that no rival was of use: stopped at the gateway, at the target and at Triton.
    stopped = [span for span in spans.ended if {"rival", "session"} < set(lineage(span))]
    assert {span.name for span in stopped} == {"rival", "call target", generate, "triton"}
    assert all(map(cancelled, stopped))
    assert not any(map(cancelled, spans.named("verdict", "answer", "session")))

    judging = next(span for span in spans.named("triton") if score in lineage(span))
    assert attributes(judging) == {
        "gen_ai.request.model": "target",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.response.finish_reasons": ("length",),
    }


async def test_a_client_that_leaves_leaves_no_span_open(spans: Spans) -> None:
    parts = FakeServices(delay=0.02, target_delay=30)
    async with gateway(parts) as running, idle(parts):
        call = running.stub.Reason(request())
        async for response in call:
            if response.HasField("commit"):
                break
        call.cancel()
        await spans.settled()
    assert not any(map(failed, spans.ended))
    assert all(map(cancelled, spans.named("session", "rival", "dreamr.v1.ReasoningService/Reason")))


async def test_what_fails_is_an_error_and_what_is_refused_is_none(spans: Spans) -> None:
    parts = FakeServices(failures={"Draft": [grpc.StatusCode.INTERNAL]})
    async with gateway(parts) as running:
        await running.reason()
        await refused(running, request(question=" "))
        await spans.settled()
    assert [span.name for span in spans.ended if failed(span)] == ["call draft", "draft"]
    answered, bad = spans.named("dreamr.v1.ReasoningService/Reason")
    assert attributes(answered)["rpc.response.status_code"] == "OK"
    assert attributes(bad)["rpc.response.status_code"] == "INVALID_ARGUMENT"


async def test_a_session_that_is_cancelled_is_no_error(spans: Spans) -> None:
    async with gateway(busy()) as running:
        call = running.stub.Reason(request())
        responses = aiter(call)
        started = (await anext(responses)).started
        await running.stub.Cancel(gateway_pb2.CancelRequest(session_id=started.session_id))
        with pytest.raises(grpc.aio.AioRpcError):
            await anext(responses)
        await spans.settled()
    assert not any(map(failed, spans.named("session", "rival")))
    assert all(map(cancelled, spans.named("session", "rival")))


@pytest.mark.parametrize("kept", [True, False])
async def test_a_session_that_another_gateway_goes_on_with_stays_in_its_trace(
    spans: Spans, kept: bool
) -> None:
    store, parts = MemoryStore(ttl_seconds=60), busy()
    parts.target_delay = 0.01
    began = PARENT if kept else PARENT[:-1] + "0"
    async with gateway(parts, store=store) as first, gateway(parts, store=store) as second:
        call = first.stub.Reason(request(), metadata=(("traceparent", began),))
        session_id = (await anext(aiter(call))).started.session_id
        call.cancel()
        await let_go(store, session_id)
        asked = gateway_pb2.ResumeRequest(session_id=session_id)
        elsewhere = (("traceparent", PARENT.replace(TRACE, OTHER)),)
        assert [response async for response in second.stub.Resume(asked, timeout=10, metadata=elsewhere)]
        await spans.settled()
    session = spans.named("session")[-1]
    (resume,) = spans.named("dreamr.v1.ReasoningService/Resume")
    assert session.context is not None
    assert resume.context is not None
    # Where it began without one that is kept, it is a part of the call that goes on with it.
    assert session.context.trace_id == int(TRACE if kept else OTHER, 16)
    linked = [link.context.span_id for link in session.links]
    assert linked == ([resume.context.span_id] if kept else [])


async def test_openai_clients_may_begin_the_trace_as_well(spans: Spans) -> None:
    async with (
        gateway(http="127.0.0.1:0") as running,
        AsyncOpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client,
    ):
        with pytest.raises(BadRequestError, match="question"):
            await client.chat.completions.create(
                model="dreamr",
                messages=[{"role": "user", "content": " "}],
                extra_headers={"traceparent": PARENT},
            )
        found = await client.chat.completions.create(
            model="dreamr/target",
            messages=[{"role": "user", "content": "what ?"}],
            extra_headers={"traceparent": PARENT},
        )
        await spans.settled()
    assert {span.context.trace_id for span in spans.ended if span.context} == {int(TRACE, 16)}
    assert len(spans.named("HTTP ChatCompletions")) == 2
    assert [span.name for span in spans.ended if failed(span)] == []
    asked = spans.named("HTTP ChatCompletions")[1]
    assert attributes(asked)["session.id"] in found.id


@pytest.mark.parametrize(("header", "kept"), [(PARENT, True), (PARENT[:-1] + "0", False), ("rubbish", False)])
async def test_a_caller_says_whether_its_trace_is_kept(header: str, kept: bool) -> None:
    found = Spans()
    with tracing.traced("test", found, share=0):
        async with gateway() as running:
            call = running.stub.Reason(request(), metadata=(("traceparent", header),))
            assert [response async for response in call]
            await found.settled()
        with tracing.server_span("s", [("traceparent", header)]) as span:
            assert span.metadata is not None
            # Those behind us do as we do.
            assert int(span.metadata[0][1][-2:], 16) & 1 == kept
    assert bool(found.ended) is kept


async def test_lines_of_the_log_name_their_trace(spans: Spans) -> None:
    with tracing.server_span("s", [("traceparent", PARENT)]):
        line = tracing.add_ids(None, "info", {"event": "x"})
    assert line["trace_id"] == TRACE
    assert len(line["span_id"]) == 16
    assert tracing.add_ids(None, "info", {"event": "x"}) == {"event": "x"}


async def test_a_probe_of_the_model_is_no_trace(spans: Spans) -> None:
    async with serving_triton(lambda _: [Say("x", "length")]) as (_, address):
        model = TritonModel(address, "m")
        await model.probe()
        await model.close()
    assert spans.begun == 0


async def speaking(name: str) -> AsyncGenerator[None, None]:
    with tracing.span(name, begins=True):
        yield
        yield


async def test_a_span_ends_where_its_generator_is_closed(spans: Spans) -> None:
    words = speaking("speaking")
    await asyncio.create_task(anext(words))
    await words.aclose()
    assert [cancelled(span) for span in spans.ended] == [True]
    assert tracing.current() is tracing.NONE


async def test_generators_may_end_in_any_order(spans: Spans) -> None:
    with tracing.span("around", begins=True) as around:
        first, second = speaking("first"), speaking("second")
        await anext(first)
        await anext(second)
        await first.aclose()
        with tracing.span("within second"):
            pass
        await second.aclose()
        assert tracing.current() is around
        with tracing.span("behind both"):
            pass
    parents = {ids(span): span.name for span in spans.ended}
    ways = {span.name: parents.get(span.parent.span_id) for span in spans.ended if span.parent}
    assert ways == {
        "first": "around",
        "second": "first",
        "within second": "second",
        "behind both": "around",
    }


async def test_who_closes_a_generator_of_another_task_stays_in_its_own_span(spans: Spans) -> None:
    words = speaking("theirs")
    with tracing.span("their task", begins=True):
        await asyncio.create_task(anext(words))
    with tracing.span("mine", begins=True) as mine:
        await words.aclose()
        assert tracing.current() is mine
    assert tracing.current() is tracing.NONE


def test_what_is_off_costs_no_import() -> None:
    code = (
        "import sys; from services.common import interceptor, logs, tracing, triton\n"
        "with tracing.span('x') as span: span.set({'a': 1}); assert span.metadata is None\n"
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_extra_the_setting_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "services.common.collector")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(SystemExit):
        DraftSettings.load(["--otlp", "http://127.0.0.1:4317"])
    assert "pip install 'dreamr[traces]'" in capsys.readouterr().err
    assert DraftSettings.load([]).otlp == ""


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4317", "ftp://a:1", "http://a", "http://a:1/path"])
def test_an_endpoint_is_a_url_with_a_port(endpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        DraftSettings.load(["--otlp", endpoint])
    assert "otlp" in capsys.readouterr().err


def sent(fate: str) -> float:
    return prometheus_client.REGISTRY.get_sample_value("dreamr_spans_total", {"fate": fate}) or 0.0


async def test_the_last_spans_reach_the_collector_before_the_end() -> None:
    receiver, before = Receiver(), sent("sent")
    async with (
        serving(receiver.add_to) as address,
        collector.collected(f"http://{address}", "DraftService", 1.0),
    ):
        with tracing.span("last", begins=True):
            pass
    assert [(span.service, span.name) for span in receiver.spans] == [("DraftService", "last")]
    assert sent("sent") == before + 1


async def test_a_collector_that_is_away_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    monkeypatch.setattr(collector, "FLUSH_SECONDS", 0.2)
    monkeypatch.setattr(collector, "QUEUE", 1024)
    before = sent("lost")
    began = time.monotonic()
    async with collector.collected(f"http://127.0.0.1:{unused_tcp_port}", "DraftService", 1.0):
        for _ in range(3000):
            with tracing.span("lost", begins=True):
                pass
        assert time.monotonic() - began < 5
        # So many at least had no room, beside those that wait and those that are on their way.
        assert sent("lost") - before >= 3000 - 1024 - collector.BATCH
    assert time.monotonic() - began < 9
    assert sent("lost") - before <= 3000
