"""The draft, target and verifier services over real gRPC; only Triton's front is a fake."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from dreamr.v1 import (
    common_pb2,
    draft_pb2,
    draft_pb2_grpc,
    target_pb2,
    target_pb2_grpc,
    verifier_pb2,
    verifier_pb2_grpc,
)
from services.common.interceptor import StatusInterceptor
from services.common.pair import (
    CascadeSettings,
    ConfidenceSettings,
    DigitSettings,
    EquivalenceSettings,
    ModelSettings,
    Pair,
    ReasoningSettings,
    TbvmSettings,
)
from services.common.prompts import Prompts
from services.common.triton import TritonModel
from services.draft.service import DraftService
from services.target.service import TargetService
from services.verifier.service import VerifierService
from tests.unit.fake_triton import FakeTriton, Say, Seen, serving, serving_triton

LIMITS = ReasoningSettings(max_question_chars=100, min_images=1, max_images=1)
MODEL = ModelSettings(triton_model="m", template=Path())
PAIR = Pair(
    name="test",
    draft=MODEL,
    target=MODEL,
    reasoning=LIMITS,
    tbvm=TbvmSettings(instruction="is it right ?", alpha=0.7, mass_floor=0.1),
    digit=DigitSettings(instruction="which digit ?"),
    equivalence=EquivalenceSettings(instruction="is it {rival} ?"),
    confidence=ConfidenceSettings(alpha=0.8),
    cascade=CascadeSettings(accept=0.9, reject=0.1),
)
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{{ p['text'] if p['type'] == 'text' else '<image>' }}{% endfor %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>"
    "{% if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}{% endif %}"
)


def ahead(**changes: Any) -> common_pb2.Context:
    values: dict[str, Any] = {"question": "what ?", "images": [common_pb2.Image(data=b"png")], **changes}
    return common_pb2.Context(**values)


class Cluster:
    """Stubs of the three services, and the fake behind them."""

    def __init__(self, triton: FakeTriton, channel: grpc.aio.Channel) -> None:
        self.triton = triton
        self.draft: draft_pb2_grpc.DraftServiceAsyncStub = draft_pb2_grpc.DraftServiceStub(channel)
        self.target: target_pb2_grpc.TargetServiceAsyncStub = target_pb2_grpc.TargetServiceStub(channel)
        self.verifier: verifier_pb2_grpc.VerifierServiceAsyncStub = verifier_pb2_grpc.VerifierServiceStub(
            channel
        )


@pytest.fixture
def prompts(tmp_path: Path) -> Prompts:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>"}))
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    return Prompts(tmp_path, LIMITS)


Start = Callable[..., Any]


@pytest.fixture
def start(prompts: Prompts) -> Start:
    @asynccontextmanager
    async def start(
        script: Callable[[Seen], list[Say]], *, judge_seconds: float = 5.0, target: str | None = None
    ) -> AsyncIterator[Cluster]:
        async with serving_triton(script) as (fake, address):
            model = TritonModel(address, "m")

            def add(server: grpc.aio.Server) -> None:
                draft = DraftService(model, prompts, LIMITS, 30)
                draft_pb2_grpc.add_DraftServiceServicer_to_server(draft, server)
                service = TargetService(model, prompts, LIMITS, 30)
                target_pb2_grpc.add_TargetServiceServicer_to_server(service, server)

            async with serving(add, interceptors=[StatusInterceptor()]) as first:  # noqa: SIM117
                async with grpc.aio.insecure_channel(target or first) as to_target:
                    verifier = VerifierService(
                        target_pb2_grpc.TargetServiceStub(to_target),
                        PAIR,
                        top=20,
                        judge_seconds=judge_seconds,
                    )

                    def add_verifier(server: grpc.aio.Server) -> None:
                        add(server)
                        verifier_pb2_grpc.add_VerifierServiceServicer_to_server(verifier, server)

                    async with (
                        serving(add_verifier, interceptors=[StatusInterceptor()]) as second,
                        grpc.aio.insecure_channel(second) as channel,
                    ):
                        yield Cluster(fake, channel)
            await model.close()

    return start


def judged(positive: float, negative: float) -> list[Say]:
    from math import log

    place = {
        "1": {"logprob": log(positive), "rank": 1, "decoded_token": " Positive"},
        "2": {"logprob": log(negative), "rank": 2, "decoded_token": "negative"},
    }
    return [Say("x", "length", logprobs=[place])]


async def test_the_draft_writes_steps_until_one_closes(start: Start) -> None:
    texts = iter(["one .\n\n", "two .\n</think>"])
    async with start(lambda _: [Say(next(texts), "stop")]) as cluster:
        request = draft_pb2.DraftRequest(context=ahead(steps=["zero ."]), max_steps=9)
        steps = [response.step async for response in cluster.draft.Draft(request, timeout=5)]
        first, second = cluster.triton.seen
    assert [(step.text, step.closes) for step in steps] == [("one .", False), ("two .", True)]
    assert first.prompt == "<user><image>what ?<assistant><think>\nzero .\n\n"
    assert second.prompt == first.prompt + "one .\n\n"
    assert (first.images, first.stream) == (1, False)


async def test_steps_of_one_call_are_not_drawn_alike(start: Start) -> None:
    async with start(lambda _: [Say("more .\n\n", "stop")]) as cluster:
        drawn = common_pb2.Sampling(temperature=1, seed=(1 << 63) - 1)
        asked = draft_pb2.DraftRequest(context=ahead(), max_steps=3, sampling=drawn)
        _ = [response async for response in cluster.draft.Draft(asked, timeout=5)]
        seeds = [seen.parameters["seed"] for seen in cluster.triton.seen]
    assert seeds == [(1 << 63) - 1, 0, 1]


async def test_cancelling_the_draft_stops_the_model(start: Start) -> None:
    async with start(lambda _: [Say("x", "stop", wait=30)]) as cluster:
        call = cluster.draft.Draft(draft_pb2.DraftRequest(context=ahead(), max_steps=1))
        await cluster.triton.asked.wait()
        call.cancel()
        await asyncio.wait_for(cluster.triton.cancelled.wait(), 2)


async def test_the_callers_deadline_reaches_the_model(start: Start) -> None:
    async with start(lambda _: [Say("x", "stop", wait=30)]) as cluster:
        call = cluster.draft.Draft(draft_pb2.DraftRequest(context=ahead(), max_steps=1), timeout=0.2)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(cluster.triton.cancelled.wait(), 2)


async def test_a_rival_reports_what_it_has_cost(start: Start) -> None:
    said = [Say("one"), Say(" two", wait=0.03), Say(" .\n\n", "stop", wait=0.03)]
    async with start(lambda _: said) as cluster:
        request = target_pb2.GenerateRequest(context=ahead(), max_steps=1)
        events = [event async for event in cluster.target.Generate(request, timeout=5)]
    assert [event.progress.tokens for event in events[:-1]] == [1, 2, 3]
    assert (events[-1].written.step.text, events[-1].written.step.tokens) == ("one two .", 3)


async def test_the_target_alone_reasons_in_one_generation(start: Start) -> None:
    async with start(lambda _: [Say("one .\n\n"), Say("two .\n"), Say("</think>", "stop")]) as cluster:
        request = target_pb2.GenerateRequest(context=ahead())
        events = [event async for event in cluster.target.Generate(request, timeout=5)]
        assert len(cluster.triton.seen) == 1
    steps = [event.written.step for event in events if event.HasField("written")]
    assert [(step.text, step.closes) for step in steps] == [("one .", False), ("two .", True)]


async def test_the_answer_stands_behind_closed_reasoning(start: Start) -> None:
    async with start(lambda _: [Say(" 42 ", "stop")]) as cluster:
        answer = await cluster.target.Answer(
            target_pb2.AnswerRequest(context=ahead(steps=["s ."])), timeout=5
        )
        assert cluster.triton.seen[0].prompt.endswith("<think>\ns .\n</think>\n\n")
    assert (answer.text, answer.truncated) == ("42", False)


@pytest.mark.parametrize(("positive", "negative", "accept"), [(0.6, 0.2, True), (0.6, 0.3, False)])
async def test_the_verifier_compares_the_score_with_alpha(
    start: Start, positive: float, negative: float, accept: bool
) -> None:
    async with start(lambda _: judged(positive, negative)) as cluster:
        request = verifier_pb2.VerifyRequest(context=ahead(), candidate=common_pb2.Step(text="one ."))
        verdict = (await cluster.verifier.Verify(request, timeout=5)).verdict
        seen = cluster.triton.seen[0]
    assert verdict.accept is accept
    assert verdict.reason == common_pb2.VERDICT_REASON_SCORE
    assert verdict.score == pytest.approx(positive / (positive + negative))
    assert "one .\n\n<user>is it right ?<assistant>" in seen.prompt
    assert seen.parameters == {"max_tokens": 1, "temperature": 0, "logprobs": 20}


def digits(**shares: float) -> list[Say]:
    from math import log

    place = {
        str(number): {"logprob": log(share), "rank": number, "decoded_token": text.removeprefix("d")}
        for number, (text, share) in enumerate(shares.items(), 1)
    }
    return [Say("x", "length", logprobs=[place])]


async def test_specreasons_judge_gives_a_digit(start: Start) -> None:
    async with start(lambda _: digits(d9=0.6, d2=0.2)) as cluster:
        request = verifier_pb2.VerifyRequest(
            context=ahead(),
            candidate=common_pb2.Step(text="one ."),
            rule=common_pb2.VERIFICATION_RULE_DIGIT,
        )
        verdict = (await cluster.verifier.Verify(request, timeout=5)).verdict
        assert "<user>which digit ?<assistant>" in cluster.triton.seen[0].prompt
    assert verdict.accept
    assert verdict.score == pytest.approx((9 * 0.6 + 2 * 0.2) / 0.8 / 9)
    assert verdict.alpha == pytest.approx(7 / 9)


async def test_equivalence_is_asked_about_the_rival(start: Start) -> None:
    async with start(lambda _: judged(0.3, 0.6)) as cluster:
        request = verifier_pb2.VerifyRequest(
            context=ahead(),
            candidate=common_pb2.Step(text="one ."),
            rule=common_pb2.VERIFICATION_RULE_EQUIVALENCE,
            rival=common_pb2.Step(text="eins ."),
        )
        verdict = (await cluster.verifier.Verify(request, timeout=5)).verdict
        assert "<user>is it eins . ?<assistant>" in cluster.triton.seen[0].prompt
        request.ClearField("rival")
        with pytest.raises(grpc.aio.AioRpcError, match="rival: must be given"):
            await cluster.verifier.Verify(request, timeout=5)
    assert not verdict.accept


def sure(least: float, mean: float = 1.0) -> common_pb2.Step:
    from math import log

    return common_pb2.Step(text="one .", min_logprob=log(least), mean_logprob=log(mean))


@pytest.mark.parametrize(
    ("candidate", "accept", "reason"),
    [
        (sure(0.81), True, "SCORE"),
        (sure(0.8), False, "SCORE"),
        (common_pb2.Step(text="one ."), False, "NO_LOGPROBS"),
        (common_pb2.Step(text="one .", min_logprob=float("nan"), mean_logprob=0), False, "NO_LOGPROBS"),
    ],
)
async def test_the_drafts_confidence_asks_nobody(
    start: Start, candidate: common_pb2.Step, accept: bool, reason: str
) -> None:
    async with start(lambda _: []) as cluster:
        request = verifier_pb2.VerifyRequest(
            context=ahead(), candidate=candidate, rule=common_pb2.VERIFICATION_RULE_CONFIDENCE
        )
        verdict = (await cluster.verifier.Verify(request, timeout=5)).verdict
        assert not cluster.triton.seen
    assert verdict.accept is accept
    assert common_pb2.VerdictReason.Name(verdict.reason) == f"VERDICT_REASON_{reason}"
    assert verdict.rule == common_pb2.VERIFICATION_RULE_CONFIDENCE
    assert verdict.score == pytest.approx(verdict.p_pos)


@pytest.mark.parametrize(
    ("candidate", "asked", "accept", "alpha"),
    [
        (sure(0.95), False, True, 0.9),
        (sure(0.05), False, False, 0.1),
        (sure(0.5), True, True, 0.7),
        (common_pb2.Step(text="one ."), True, True, 0.7),
    ],
)
async def test_a_cascade_asks_the_target_when_the_draft_is_unsure(
    start: Start, candidate: common_pb2.Step, asked: bool, accept: bool, alpha: float
) -> None:
    async with start(lambda _: judged(0.8, 0.1)) as cluster:
        request = verifier_pb2.VerifyRequest(
            context=ahead(), candidate=candidate, rule=common_pb2.VERIFICATION_RULE_CASCADE
        )
        verdict = (await cluster.verifier.Verify(request, timeout=5)).verdict
        assert bool(cluster.triton.seen) is asked
    assert verdict.accept is accept
    assert verdict.alpha == pytest.approx(alpha)
    decided = common_pb2.VERIFICATION_RULE_TBVM if asked else common_pb2.VERIFICATION_RULE_CONFIDENCE
    assert verdict.rule == decided


async def test_the_draft_says_how_likely_its_tokens_were_where_it_is_asked(start: Start) -> None:
    places = [
        {str(number): {"logprob": logprob, "rank": 1, "decoded_token": "x"}}
        for number, logprob in enumerate((-0.1, -0.5))
    ]
    async with start(
        lambda seen: [Say("one .\n\n", "stop", logprobs=places if "logprobs" in seen.parameters else None)]
    ) as cluster:
        request = draft_pb2.DraftRequest(context=ahead(), max_steps=1, logprobs=True)
        (told,) = [response.step async for response in cluster.draft.Draft(request, timeout=5)]
        request.logprobs = False
        (untold,) = [response.step async for response in cluster.draft.Draft(request, timeout=5)]
        assert [seen.parameters.get("logprobs") for seen in cluster.triton.seen] == [0, None]
    assert told.mean_logprob == pytest.approx(-0.3)
    assert told.min_logprob == pytest.approx(-0.5)
    assert not untold.HasField("mean_logprob")


async def test_a_truncated_candidate_is_rejected_without_a_call(start: Start) -> None:
    async with start(lambda _: []) as cluster:
        candidate = common_pb2.Step(text="one", truncated=True)
        request = verifier_pb2.VerifyRequest(context=ahead(), candidate=candidate)
        verdict = (await cluster.verifier.Verify(request, timeout=5)).verdict
        assert not cluster.triton.seen
    assert (verdict.accept, verdict.reason) == (False, common_pb2.VERDICT_REASON_TRUNCATED)


async def test_a_late_judge_is_a_reject(start: Start) -> None:
    async with start(lambda _: [Say("x", "stop", wait=30)], judge_seconds=0.1) as cluster:
        request = verifier_pb2.VerifyRequest(context=ahead(), candidate=common_pb2.Step(text="one ."))
        verdict = (await cluster.verifier.Verify(request, timeout=5)).verdict
        await asyncio.wait_for(cluster.triton.cancelled.wait(), 2)
    assert (verdict.accept, verdict.reason) == (False, common_pb2.VERDICT_REASON_LATE)


async def test_a_target_that_is_gone_is_an_error_of_the_verifier(start: Start) -> None:
    async with start(lambda _: [], target="127.0.0.1:1") as cluster:
        request = verifier_pb2.VerifyRequest(context=ahead(), candidate=common_pb2.Step(text="one ."))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await cluster.verifier.Verify(request, timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (draft_pb2.DraftRequest(context=ahead(), max_steps=0), "max_steps"),
        (draft_pb2.DraftRequest(context=ahead(), max_steps=65), "max_steps"),
        (draft_pb2.DraftRequest(context=ahead(question=" "), max_steps=1), "context.question"),
        (draft_pb2.DraftRequest(context=ahead(question="x" * 101), max_steps=1), "100"),
        (draft_pb2.DraftRequest(context=ahead(images=[]), max_steps=1), "context.images"),
        (
            draft_pb2.DraftRequest(context=ahead(images=[common_pb2.Image()]), max_steps=1),
            "context.images[0]",
        ),
        (draft_pb2.DraftRequest(context=ahead(), max_steps=1, max_step_tokens=0), "max_step_tokens"),
        (
            draft_pb2.DraftRequest(
                context=ahead(), max_steps=1, sampling=common_pb2.Sampling(temperature=float("nan"))
            ),
            "sampling.temperature",
        ),
        (
            draft_pb2.DraftRequest(context=ahead(), max_steps=1, sampling=common_pb2.Sampling(top_p=1.5)),
            "sampling.top_p",
        ),
    ],
)
async def test_a_wrong_field_is_named(start: Start, request_: draft_pb2.DraftRequest, field: str) -> None:
    async with start(lambda _: []) as cluster:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await cluster.draft.Draft(request_, timeout=5).read()
        assert not cluster.triton.seen
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in str(caught.value.details())


async def test_an_instruction_has_its_limit(start: Start) -> None:
    """The last few are kept: they must not be as long as a message may be."""
    async with start(lambda _: []) as cluster:
        request = target_pb2.ScoreRequest(
            context=ahead(), candidate=common_pb2.Step(text="one ."), instruction="x" * 65_537, top=1
        )
        with pytest.raises(grpc.aio.AioRpcError, match="instruction: has more than 65,536 characters"):
            await cluster.target.Score(request, timeout=5)


async def test_alpha_outside_its_range_is_named(start: Start) -> None:
    async with start(lambda _: []) as cluster:
        request = verifier_pb2.VerifyRequest(
            context=ahead(), candidate=common_pb2.Step(text="one ."), alpha=1.5
        )
        with pytest.raises(grpc.aio.AioRpcError, match=r"alpha: must be within 0\.\.1"):
            await cluster.verifier.Verify(request, timeout=5)


async def test_a_handlers_own_cancellation_does_not_leave_the_client_hanging() -> None:
    class Broken(target_pb2_grpc.TargetServiceServicer):
        async def Answer(self, request: Any, context: Any) -> Any:
            raise asyncio.CancelledError

        async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
            yield target_pb2.GenerateResponse()
            raise asyncio.CancelledError

        async def Score(self, request: Any, context: Any) -> Any:
            raise asyncio.CancelledError

    def add(server: grpc.aio.Server) -> None:
        target_pb2_grpc.add_TargetServiceServicer_to_server(Broken(), server)

    async with (
        serving(add, interceptors=[StatusInterceptor()]) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub: target_pb2_grpc.TargetServiceAsyncStub = target_pb2_grpc.TargetServiceStub(channel)
        async with asyncio.timeout(3):
            with pytest.raises(grpc.aio.AioRpcError) as unary:
                await stub.Answer(target_pb2.AnswerRequest())
            with pytest.raises(grpc.aio.AioRpcError) as streamed:
                async for _ in stub.Generate(target_pb2.GenerateRequest()):
                    pass
    assert unary.value.code() is streamed.value.code() is grpc.StatusCode.INTERNAL
