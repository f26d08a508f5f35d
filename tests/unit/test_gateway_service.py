"""The gateway's front over real gRPC, with real channels to the parts; only the parts' models are fakes."""

import asyncio
import random
from contextlib import suppress
from typing import Any

import grpc
import prometheus_client
import pytest

from dreamr.v1 import common_pb2, gateway_pb2
from services.gateway.memory_store import MemoryStore
from services.gateway.settings import GatewaySettings
from services.gateway.store import Status, StoreError
from tests.unit.fake_services import STEPS, FakeServices, idle
from tests.unit.fake_triton import serving
from tests.unit.running_gateway import PAIR, commits, gateway, refused, request

Options = gateway_pb2.ReasonOptions
Code = grpc.StatusCode


async def test_a_session_is_streamed_and_stored() -> None:
    # No rival overtakes a verdict, however busy the machine is.
    async with gateway(FakeServices(target_delay=30)) as running:
        told = await running.reason()
        started, finished = told[0].started, told[-1].finished
        assert (started.policy, started.window, started.durable) == ("fpsr", 4, False)
        assert [commit.step.text for commit in commits(told)] == list(STEPS)
        assert [commit.index for commit in commits(told)] == [0, 1, 2]
        assert finished.answer == "42"
        assert not finished.degraded
        stored = await running.store.load(started.session_id)
        assert stored is not None
        assert stored.status is Status.FINISHED
        assert [gateway_pb2.Commit.FromString(step) for step in stored.steps] == commits(told)
        assert gateway_pb2.Finished.FromString(stored.outcome) == finished
        assert len(stored.image_names) == 1
        plan = gateway_pb2.ReasonRequest.FromString(stored.request).options
        assert (plan.policy, plan.window, plan.alpha, plan.max_steps) == ("fpsr", 4, PAIR.tbvm.alpha, 16)
        assert all(commit.verdict.seconds > 0 for commit in commits(told))
        totals = finished.totals.target
        assert totals.committed_tokens <= totals.generated_tokens


async def test_the_deadline_is_passed_on() -> None:
    rounding = 0.1  # gRPC rounds what is left up to three digits
    async with gateway() as running:
        await running.reason(timeout=7)
        assert max(running.parts.seconds_left) <= 7 + rounding
        await running.reason(timeout=None)
        assert max(running.parts.seconds_left) <= GatewaySettings().max_call_seconds + 10 * rounding


async def test_metrics_tell_of_commits_verdicts_and_sessions() -> None:
    def value(name: str, **labels: str) -> float:
        return prometheus_client.REGISTRY.get_sample_value(name, labels) or 0.0

    def values() -> list[float]:
        return [
            value("dreamr_commits_total", policy="fpsr", author="draft"),
            value("dreamr_verdicts_total", outcome="accept", reason="score"),
            value("dreamr_sessions_total", policy="fpsr", status="finished"),
            value("dreamr_session_seconds_count", policy="fpsr"),
        ]

    async with gateway(FakeServices(target_delay=30)) as running:
        before = values()
        await running.reason()
        assert [now - then for now, then in zip(values(), before, strict=True)] == [3, 3, 1, 1]
    assert value("dreamr_active_sessions") == 0


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (request(question=" "), "question: "),
        (request(images=[]), "images: at least 1"),
        (request(images=[common_pb2.Image(data=b"no image")]), "images[0]: "),
        (request(Options(window=0)), "options.window: must be within 1..16"),
        (request(Options(alpha=float("nan"))), "options.alpha: must be within 0..1"),
        (request(Options(policy="magic")), "options.policy: "),
    ],
)
async def test_a_bad_request_never_reaches_a_part(asked: gateway_pb2.ReasonRequest, words: str) -> None:
    async with gateway() as running:
        error = await refused(running, asked)
        assert error.code() is Code.INVALID_ARGUMENT
        assert words in str(error.details())
        assert running.parts.calls == 0


async def test_a_request_of_80_megabytes_is_refused_by_size() -> None:
    async with gateway() as running:
        error = await refused(running, request(images=[common_pb2.Image(data=bytes(80_000_000))]))
        assert error.code() is Code.RESOURCE_EXHAUSTED


async def test_a_client_that_leaves_stops_every_call() -> None:
    parts = FakeServices(delay=0.02, target_delay=30)
    async with gateway(parts) as running, idle(parts):
        call = running.stub.Reason(request(Options(activity=True)))
        async for response in call:
            if response.activity.phase == gateway_pb2.PHASE_STEP:
                break
        call.cancel()
    assert "Generate" in parts.cancelled


async def test_the_place_of_a_client_that_left_is_free_again() -> None:
    parts = FakeServices(target_delay=30, failures={"Draft": [Code.INTERNAL]})
    async with gateway(parts, max_sessions=1, max_waiting=0) as running:
        call = running.stub.Reason(request())
        await call.read()
        error = await refused(running)
        assert error.code() is Code.RESOURCE_EXHAUSTED
        assert "sessions: " in str(error.details())
        async with idle(parts):
            call.cancel()
        parts.target_delay = 0.001
        # The gateway has its last words with the store before the place is free.
        for _ in range(200):
            with suppress(grpc.aio.AioRpcError):
                assert commits(await running.reason())
                break
            await asyncio.sleep(0.01)
        else:
            pytest.fail("the place is still taken")


async def test_clients_that_leave_at_any_moment_are_no_failure_of_ours() -> None:
    def failures() -> float:
        labels = {"method": "Reason", "status": "INTERNAL"}
        return prometheus_client.REGISTRY.get_sample_value("dreamr_calls_total", labels) or 0.0

    parts, chance, before = FakeServices(target_delay=0.006, steps=STEPS * 4), random.Random(1), failures()
    async with gateway(parts) as running, idle(parts):
        for _ in range(150):
            call = running.stub.Reason(request(Options(activity=True)))
            await asyncio.sleep(chance.random() * 0.03)
            call.cancel()
    assert failures() == before


async def test_the_target_is_asked_again_while_it_is_away() -> None:
    parts = FakeServices(failures={"Generate": [Code.UNAVAILABLE] * 2, "Answer": [Code.UNAVAILABLE]})
    async with gateway(parts) as running:
        told = await running.reason(request(Options(policy="target")))
        assert [commit.step.text for commit in commits(told)] == list(STEPS)


async def test_without_a_target_the_caller_hears_what_is_kept() -> None:
    parts = FakeServices(failures={"Answer": [Code.UNAVAILABLE] * 9})
    async with gateway(parts) as running:
        call = running.stub.Reason(request(), timeout=10)
        told = [await call.read() for _ in range(4)]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is Code.UNAVAILABLE
        assert isinstance(told[0], gateway_pb2.ReasonResponse)
        session_id = told[0].started.session_id
        assert f"session {session_id} keeps 3 committed steps" in str(caught.value.details())
        behind = dict(caught.value.trailing_metadata())
        assert (behind["dreamr-session-id"], behind["dreamr-committed-steps"]) == (session_id, "3")
        stored = await running.store.load(session_id)
        assert stored is not None
        assert (stored.status, stored.held, len(stored.steps)) == (Status.RUNNING, False, 3)


@pytest.mark.parametrize("part", ["draft", "verifier"])
async def test_a_part_that_is_not_there_costs_no_answer(part: str) -> None:
    # The target must not be done before the part has been given up.
    async with gateway(FakeServices(target_delay=0.4), addresses={part: "127.0.0.1:1"}) as running:
        told = await running.reason()
        assert [commit.step.text for commit in commits(told)] == list(STEPS)
        assert told[-1].finished.degraded


async def test_another_replica_takes_over() -> None:
    async with (
        serving(FakeServices().add_to) as behind,
        gateway(addresses={"target": f"127.0.0.1:1,{behind}"}) as running,
    ):
        for _ in range(4):
            assert commits(await running.reason(request(Options(policy="target"))))


@pytest.mark.parametrize("policy", ["target", "fpsr"])
async def test_a_target_that_dies_in_a_step_is_asked_again_from_there(policy: str) -> None:
    parts = FakeServices(breaks=[0, 2], failures={"Draft": [Code.INTERNAL]})
    async with gateway(parts) as running:
        told = await running.reason(request(Options(policy=policy)))
        assert [commit.step.text for commit in commits(told)] == list(STEPS)
        assert [commit.index for commit in commits(told)] == [0, 1, 2]
        assert not parts.breaks


async def test_a_run_that_breaks_goes_on_behind_steps_that_were_too_long() -> None:
    texts = ("one", "two", "three .", "four .")
    parts = FakeServices(texts, breaks=[3], truncated=(0, 1))
    async with gateway(parts) as running:
        told = await running.reason(request(Options(policy="target")))
        assert [commit.step.text for commit in commits(told)] == list(texts)
    assert [list(asked.context.steps) for asked in parts.requests["Generate"]] == [[], list(texts[:3])]


async def test_what_the_target_refuses_is_the_callers_to_change() -> None:
    parts = FakeServices(failures={"Generate": [Code.INVALID_ARGUMENT]})
    async with gateway(parts) as running:
        error = await refused(running, request(Options(policy="target")))
        assert error.code() is Code.INVALID_ARGUMENT
        assert "Generate says no" in str(error.details())


async def test_a_full_target_is_asked_until_it_has_room() -> None:
    parts = FakeServices(failures={"Generate": [Code.RESOURCE_EXHAUSTED] * 4})
    async with gateway(parts) as running:
        told = await running.reason(request(Options(policy="target")))
        assert [commit.step.text for commit in commits(told)] == list(STEPS)


async def test_a_target_that_stays_full_is_told_as_such() -> None:
    parts = FakeServices(failures={"Generate": [Code.RESOURCE_EXHAUSTED] * 99})
    async with gateway(parts, max_call_seconds=0.5) as running:
        error = await refused(running, request(Options(policy="target")))
        assert error.code() is Code.RESOURCE_EXHAUSTED


async def test_a_client_that_does_not_read_loses_its_place() -> None:
    parts = FakeServices(steps=("x" * 1_000_000,) * 12, target_delay=0.0)
    async with gateway(parts, max_sessions=1, max_waiting=0, max_call_seconds=0.5) as running:
        call = running.stub.Reason(request(Options(policy="target")))
        await call.read()
        await asyncio.sleep(2.0)
        parts.steps = STEPS
        assert commits(await running.reason())
        call.cancel()


class Away(MemoryStore):
    """A store that fails from an append on, as Redis does that goes away."""

    durable = True

    async def append(self, session_id: str, fence: int, index: int, step: bytes) -> Any:
        """See Store."""
        raise StoreError("away")


async def test_a_store_that_goes_away_ends_no_session() -> None:
    async with gateway(store=Away(ttl_seconds=60)) as running:
        told = await running.reason()
        assert told[0].started.durable
        assert [commit.step.text for commit in commits(told)] == list(STEPS)
        assert told[-1].finished.answer == "42"
        assert "store: away" in told[-1].finished.degraded


async def test_every_part_hears_what_was_asked_for() -> None:
    options = Options(
        policy="specreason",
        alpha=0.25,
        max_step_tokens=9,
        max_answer_tokens=5,
        sampling=common_pb2.Sampling(temperature=0.5, top_p=0.9, seed=7),
    )
    parts = FakeServices()
    async with gateway(parts) as running:
        await running.reason(request(options))
        await running.reason(request(Options(policy="target", sampling=options.sampling, max_step_tokens=9)))
    verify, draft = parts.requests["Verify"][0], parts.requests["Draft"]
    assert (verify.alpha, verify.rule) == (0.25, common_pb2.VERIFICATION_RULE_DIGIT)
    assert [(one.max_steps, one.max_step_tokens) for one in draft] == [(1, 9)] * 3
    (rival,) = parts.requests["Generate"]
    assert (rival.max_steps, rival.max_step_tokens) == (0, 9)
    assert parts.requests["Answer"][0].max_tokens == 5
    drawn = [one.sampling for one in (*draft, rival, parts.requests["Answer"][0])]
    assert {(one.temperature, one.top_p) for one in drawn} == {(0.5, 0.9)}
    assert len({one.seed for one in drawn}) == len(drawn), "every draw is its own"


async def test_the_drafts_confidence_reaches_the_verifier_where_the_rule_goes_by_it() -> None:
    parts = FakeServices()
    async with gateway(parts) as running:
        told = await running.reason(request(Options(rule=common_pb2.VERIFICATION_RULE_CASCADE)))
        await running.reason()
    (first, *_), (*_, last) = parts.requests["Draft"], parts.requests["Draft"]
    assert (first.logprobs, last.logprobs) == (True, False)
    (first, *_), (*_, last) = parts.requests["Verify"], parts.requests["Verify"]
    assert first.rule == common_pb2.VERIFICATION_RULE_CASCADE
    assert (first.candidate.mean_logprob, first.candidate.min_logprob) == (-0.25, -0.5)
    assert not last.candidate.HasField("min_logprob")
    assert {commit.step.min_logprob for commit in commits(told)} == {-0.5}


async def test_the_reasoning_goes_on_behind_steps_that_are_given() -> None:
    parts = FakeServices()
    given = [common_pb2.Step(text=text) for text in STEPS[:2]]
    async with gateway(parts) as running:
        told = await running.reason(request(Options(policy="target"), steps=given))
    assert [(commit.index, commit.step.text) for commit in commits(told)] == [(0, STEPS[2])]
    assert list(parts.requests["Generate"][0].context.steps) == list(STEPS[:2])
    assert list(parts.requests["Answer"][0].context.steps) == list(STEPS)


async def test_behind_a_given_step_that_closes_the_answer_alone_is_written() -> None:
    parts = FakeServices()
    given = [common_pb2.Step(text=STEPS[0], closes=True)]
    async with gateway(parts) as running:
        told = await running.reason(request(steps=given))
    assert not commits(told)
    assert (told[-1].finished.answer, told[-1].finished.reason) == ("42", gateway_pb2.FINISH_REASON_STOP)
    assert list(parts.requests) == ["Answer"]
    assert [text for text in parts.requests["Answer"][0].context.steps if text] == [STEPS[0]]


async def test_several_draft_workers_write_for_one_position() -> None:
    async with (
        serving((first := FakeServices(delay=0.1)).add_to) as one,
        serving((second := FakeServices(delay=0.1)).add_to) as other,
        gateway(addresses={"draft": f"{one},{other}"}) as running,
    ):
        told = await running.reason(request(Options(width=2)))
        assert [commit.step.text for commit in commits(told)] == list(STEPS)
    lanes = [asked for part in (first, second) for asked in part.requests.get("Draft", ())]
    assert {asked.max_steps for asked in lanes} >= {1, 4}
    assert {asked.sampling.temperature for asked in lanes if asked.max_steps == 4} == {0}
    assert any(asked.sampling.temperature > 0 for asked in lanes)


class Slow(MemoryStore):
    """A store whose appends wait until they may go on."""

    def __init__(self) -> None:
        super().__init__(ttl_seconds=60)
        self.may_go_on = asyncio.Event()

    async def append(self, session_id: str, fence: int, index: int, step: bytes) -> Any:
        """See Store."""
        await self.may_go_on.wait()
        return await super().append(session_id, fence, index, step)


async def test_a_client_hears_of_nothing_that_is_not_stored() -> None:
    store = Slow()
    async with gateway(store=store) as running:
        call = running.stub.Reason(request(), timeout=10)
        assert isinstance(await call.read(), gateway_pb2.ReasonResponse)
        reading = asyncio.ensure_future(call.read())
        done, _ = await asyncio.wait({reading}, timeout=0.3)
        assert not done
        store.may_go_on.set()
        response = await reading
        assert isinstance(response, gateway_pb2.ReasonResponse)
        assert response.HasField("commit")


async def test_places_of_those_who_gave_up_waiting_are_free_again() -> None:
    parts = FakeServices(target_delay=30, failures={"Draft": [Code.INTERNAL]})
    async with gateway(parts, max_sessions=1, max_waiting=1) as running:
        first = running.stub.Reason(request())
        await first.read()
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await running.reason(timeout=0.1)
            assert caught.value.code() in (Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED)
            await asyncio.sleep(0.05)
        waiting = asyncio.ensure_future(running.reason())
        await asyncio.sleep(0.05)
        parts.target_delay = 0.001
        first.cancel()
        assert commits(await waiting)


async def test_the_draft_may_write_the_answer() -> None:
    parts = FakeServices()
    async with gateway(parts) as running:
        told = await running.reason(request(Options(answer_by=gateway_pb2.AUTHOR_DRAFT)))
        assert told[-1].finished.answer == "42"
        assert "Answer" not in parts.requests
        assert told[-1].finished.totals.draft.committed_tokens == 5 * len(STEPS) + 1


async def test_the_governor_hears_of_sessions_and_what_it_says_is_told() -> None:
    async with gateway() as found:
        told = await found.reason()
        assert told[0].started.speculation == gateway_pb2.SPECULATION_FULL
        governor = found.service._reasoning._governor
        assert governor.judged == len(STEPS)
        assert governor.acceptance.value == 1
        alone = await found.reason(request(Options(policy="target")))
        assert alone[0].started.speculation == gateway_pb2.SPECULATION_NONE
        assert {one.speculation for one in commits(alone)} == {gateway_pb2.SPECULATION_NONE}
