"""Where no rival reads the question first, the target is had to: the first verdict finds that done."""

import grpc
import pytest

from dreamr.v1 import gateway_pb2
from services.gateway.governor import SessionGovernor
from services.gateway.speculation import Speculation
from tests.unit.fake_services import STEPS, FakeServices
from tests.unit.running_gateway import commits, gateway, request


@pytest.fixture
def held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SessionGovernor, "level", lambda _: Speculation.AFTER_REJECT)


def read_ahead(parts: FakeServices) -> int:
    return sum(asked.max_step_tokens == 1 for asked in parts.requests.get("Generate", []))


@pytest.mark.usefixtures("held_back")
async def test_the_target_reads_while_the_draft_writes() -> None:
    async with gateway(parts := FakeServices()) as running:
        told = await running.reason()
    assert [commit.author for commit in commits(told)] == [gateway_pb2.AUTHOR_DRAFT] * len(STEPS)
    (asked,) = parts.requests["Generate"]
    assert (asked.max_steps, asked.max_step_tokens, list(asked.context.steps)) == (1, 1, [])
    # The fake takes longer than the whole session.
    assert parts.cancelled == ["Generate"]


@pytest.mark.usefixtures("held_back")
async def test_what_it_wrote_is_waste() -> None:
    async with gateway(FakeServices(rival_delay=0.001, delay=0.05, target_delay=0.001)) as running:
        told = await running.reason()
    totals = told[-1].finished.totals.target
    assert (totals.calls, totals.generated_tokens, totals.committed_tokens) == (2, 5 + 1, 1)


@pytest.mark.usefixtures("held_back")
async def test_a_session_does_not_depend_on_it() -> None:
    parts = FakeServices(failures={"Generate": [grpc.StatusCode.INTERNAL]})
    async with gateway(parts) as running:
        told = await running.reason()
    assert told[-1].finished.answer == "42"
    assert not told[-1].finished.degraded


@pytest.mark.parametrize("policy", ["fpsr", "specreason", "target"])
async def test_not_beside_a_rival_nor_for_policies_that_do_one_thing_at_a_time(policy: str) -> None:
    async with gateway(parts := FakeServices()) as running:
        await running.reason(request(gateway_pb2.ReasonOptions(policy=policy)))
    assert read_ahead(parts) == 0
