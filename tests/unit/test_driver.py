"""The driver carries out what the machine says; whatever is started is awaited or cancelled."""

import asyncio
import time

import pytest

from dreamr.v1 import common_pb2, gateway_pb2
from services.common.errors import (
    InvalidRequestError,
    LateError,
    OverloadedError,
    ServiceError,
    UnavailableError,
)
from services.gateway.driver import Driver
from services.gateway.fpsr import Machine
from services.gateway.governor import Governor
from services.gateway.governs import Governs, Ungoverned
from services.gateway.policy import FPSR, TARGET, Policy
from services.gateway.speculation import Speculation
from tests.unit.fake_parts import STEPS, FakeParts

Response = gateway_pb2.ReasonResponse


class Session:
    """A driver over fake parts, and what it told."""

    def __init__(
        self,
        parts: FakeParts,
        policy: Policy = FPSR,
        *,
        seconds: float = 5.0,
        governor: Governs | None = None,
    ) -> None:
        self.parts = parts
        self.told: list[Response] = []
        self.driver = Driver(
            Machine(policy, max_steps=8),
            parts,
            self._take,
            seconds=seconds,
            with_activity=True,
            governor=governor,
        )

    async def _take(self, response: Response) -> None:
        self.told.append(response)

    async def run(self) -> gateway_pb2.Finished:
        before = asyncio.all_tasks()
        try:
            await self.driver.run()
        finally:
            assert asyncio.all_tasks() == before, "a task is left behind"
            assert self.parts.running == 0
        return self.told[-1].finished

    @property
    def commits(self) -> list[gateway_pb2.Commit]:
        return [response.commit for response in self.told if response.HasField("commit")]


async def test_accepted_candidates_are_committed_and_their_rivals_stopped() -> None:
    session = Session(FakeParts())
    finished = await session.run()
    assert finished.answer == "42"
    assert [commit.step.text for commit in session.commits] == list(STEPS)
    assert {commit.author for commit in session.commits} == {gateway_pb2.AUTHOR_DRAFT}
    totals = finished.totals
    assert (totals.accepted, totals.rejected, totals.cancelled) == (3, 0, 0)
    assert totals.draft.committed_tokens == 15
    assert totals.target.cancelled_calls >= 1
    # A cancelled rival had told of two tokens, if it had begun.
    assert totals.target.wasted_tokens <= 2 * totals.target.cancelled_calls
    assert totals.target.wasted_tokens == totals.target.generated_tokens - totals.target.committed_tokens
    assert "rival" in session.parts.stopped


async def test_a_rejected_candidate_is_replaced_by_the_rival() -> None:
    session = Session(FakeParts(wrong=frozenset({1}), rival_delay=0.01, draft_delay=0.0))
    finished = await session.run()
    assert [commit.step.text for commit in session.commits] == list(STEPS)
    assert session.commits[1].author == gateway_pb2.AUTHOR_TARGET
    assert not session.commits[1].verdict.accept
    assert finished.totals.rejected == 1


async def test_the_target_alone() -> None:
    session = Session(FakeParts(rival_delay=0.001), TARGET)
    finished = await session.run()
    assert finished.totals.steps_by_target == 3
    assert finished.totals.target.calls == 2
    assert finished.totals.target.wasted_tokens == 0


# A candidate that says what its rival says needs no verdict, whichever of the two comes first.
EVERYWHERE = frozenset(range(len(STEPS)))


@pytest.mark.parametrize("part", ["draft", "verdict"])
async def test_without_draft_or_verifier_the_target_answers(part: str) -> None:
    session = Session(FakeParts(failures={part: UnavailableError("gone")}, wrong=EVERYWHERE))
    finished = await session.run()
    assert [commit.step.text for commit in session.commits] == list(STEPS)
    assert {commit.author for commit in session.commits} == {gateway_pb2.AUTHOR_TARGET}
    assert "gone" in finished.degraded[0]


@pytest.mark.parametrize("part", ["draft", "verdict"])
async def test_what_draft_or_verifier_refuses_the_target_may_still_do(part: str) -> None:
    session = Session(FakeParts(failures={part: InvalidRequestError("too long")}, wrong=EVERYWHERE))
    finished = await session.run()
    assert finished.answer == "42"
    assert {commit.author for commit in session.commits} == {gateway_pb2.AUTHOR_TARGET}
    assert "too long" in finished.degraded[0]


async def test_a_late_verdict_is_a_reject_and_nothing_is_degraded() -> None:
    session = Session(FakeParts(failures={"verdict": LateError("late")}, wrong=EVERYWHERE))
    finished = await session.run()
    assert session.commits[0].verdict.reason == common_pb2.VERDICT_REASON_LATE
    assert not finished.degraded


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (UnavailableError("gone"), UnavailableError),
        (OverloadedError("full"), OverloadedError),
        (InvalidRequestError("too long"), InvalidRequestError),
    ],
)
async def test_without_the_target_the_session_fails(failure: ServiceError, raised: type[Exception]) -> None:
    session = Session(FakeParts(failures={"rival": failure}, wrong=frozenset({0})))
    with pytest.raises(raised, match=str(failure)):
        await session.run()


@pytest.mark.parametrize("failure", [OverloadedError("full"), InvalidRequestError("too long")])
async def test_what_the_target_says_of_a_rival_that_nobody_needs_is_let_go(failure: ServiceError) -> None:
    session = Session(FakeParts(failures={"rival": failure}))
    finished = await session.run()
    assert finished.totals.steps_by_draft == len(STEPS)


async def test_the_deadline_ends_the_session() -> None:
    session = Session(FakeParts(rival_delay=60, draft_delay=60), seconds=0.05)
    with pytest.raises(LateError):
        await session.run()
    assert sorted(session.parts.stopped) == ["draft", "rival"]


async def test_cancelling_stops_everything() -> None:
    session = Session(FakeParts(rival_delay=60, draft_delay=60))
    task = asyncio.create_task(session.driver.run())
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert session.parts.running == 0
    assert sorted(session.parts.stopped) == ["draft", "rival"]


async def test_activity_tells_when_work_began_and_how_it_ended() -> None:
    session = Session(FakeParts())
    await session.run()
    seen = [response.activity for response in session.told if response.HasField("activity")]
    begun = {activity.call for activity in seen if activity.phase == gateway_pb2.PHASE_STARTED}
    ended = {
        activity.call
        for activity in seen
        if activity.phase in (gateway_pb2.PHASE_DONE, gateway_pb2.PHASE_CANCELLED)
    }
    assert begun == ended
    for call in begun:
        times = [activity.at for activity in seen if activity.call == call]
        assert times == sorted(times)


class Alone(Ungoverned):
    """The target alone behind the first commit."""

    def level(self) -> Speculation:
        return Speculation.NONE


async def test_where_speculation_does_not_pay_nothing_is_drafted_any_more() -> None:
    session = Session(FakeParts(wrong=frozenset({0}), rival_delay=0.01), governor=Alone())
    finished = await session.run()
    assert [commit.step.text for commit in session.commits] == list(STEPS)
    assert {commit.author for commit in session.commits} == {gateway_pb2.AUTHOR_TARGET}
    assert {commit.speculation for commit in session.commits} == {gateway_pb2.SPECULATION_NONE}
    assert finished.totals.draft.calls == 1, "a drafting that is stopped at once need not begin"
    assert not finished.degraded


async def test_the_governor_hears_of_everything() -> None:
    governor = Governor()
    with governor.session(FPSR) as one:
        await Session(FakeParts(wrong=frozenset({1})), governor=one).run()
        assert governor.acceptance.value == pytest.approx(2 / 3)
        assert governor.draft.count >= 3
        assert governor.judged >= 3
        assert governor.start.count >= 1
        assert governor.token_time.count >= 1
        now = time.perf_counter()
        before = governor.moment(now)
        assert governor.moment(now + 1).decoded == before.decoded, "a call is thought to run on"


async def test_a_part_that_fails_leaves_nothing_decoding() -> None:
    governor = Governor()
    down: dict[str, ServiceError] = {"rival": UnavailableError("down"), "draft": UnavailableError("down")}
    with pytest.raises(UnavailableError), governor.session(FPSR) as one:
        await Session(FakeParts(failures=down), governor=one).run()
    now = time.perf_counter()
    before = governor.moment(now)
    assert governor.moment(now + 1).decoded == before.decoded
    assert governor.sessions == 0


async def test_what_waits_for_a_slow_client_is_told_as_of_when_it_happened() -> None:
    session = Session(FakeParts(rival_delay=5.0))
    take = session._take

    async def slowly(response: Response) -> None:
        await asyncio.sleep(0.02)
        await take(response)

    session.driver._outbox = slowly
    await session.run()
    steps = [one.activity for one in session.told if one.activity.phase == gateway_pb2.PHASE_STEP]
    drafted = [step.at for step in steps if step.part == gateway_pb2.PART_DRAFT]
    # The draft writes a step in a millisecond, whoever is told of it.
    assert drafted[2] - drafted[0] < 0.02
