"""The main job on real parts: Triton with the bundled pair, Redis, and the four services as processes."""

import asyncio
from contextlib import aclosing

import pytest

import dreamr
from bench.models import at_rest, engines
from dreamr.cluster.cluster import Cluster
from dreamr.cluster.metrics import scrape
from training.task import Example, held_out

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session")]

EXAMPLES = list(held_out(4, seed=11))


async def ask(client: dreamr.AsyncClient, example: Example, policy: str) -> dreamr.Answer:
    return await client.ask(example.question, images=[example.image], policy=policy)


@pytest.mark.parametrize("policy", ["target", "fpsr"])
async def test_questions_are_answered(client: dreamr.AsyncClient, policy: str) -> None:
    answers = [await ask(client, example, policy) for example in EXAMPLES]
    for answer in answers:
        assert answer.answer.isdecimal()
        assert [step.index for step in answer.steps] == list(range(len(answer.steps)))
        assert answer.steps[-1].closes
        assert not answer.degraded
        totals = answer.totals
        assert totals.steps_by_draft + totals.steps_by_target == len(answer.steps)
    # Not how good the pair is (the model cards tell that), but that it is no noise.
    assert any(answer.answer == example.answer for answer, example in zip(answers, EXAMPLES, strict=True))


async def test_speculation_uses_both_models(client: dreamr.AsyncClient) -> None:
    answers = [await ask(client, example, "fpsr") for example in EXAMPLES]
    assert sum(answer.totals.steps_by_draft for answer in answers) > 0
    for answer in answers:
        for step in answer.steps:
            if step.author == "draft":
                assert step.verdict is not None
                assert step.verdict.accept
            else:
                assert step.verdict is None or not step.verdict.accept


async def test_greedy_answers_repeat(client: dreamr.AsyncClient) -> None:
    first, second = [await ask(client, EXAMPLES[0], "target") for _ in range(2)]
    assert [step.text for step in first.steps] == [step.text for step in second.steps]
    assert first.answer == second.answer


async def test_many_sessions_at_once(client: dreamr.AsyncClient, cluster: Cluster) -> None:
    alone = [await ask(client, example, "target") for example in EXAMPLES]
    together = await asyncio.gather(*(ask(client, example, "target") for example in EXAMPLES * 2))
    for one, other in zip(alone * 2, together, strict=True):
        assert one.answer == other.answer
    await at_rest(cluster.triton.metrics_address)


async def test_a_client_that_leaves_stops_both_models(client: dreamr.AsyncClient, cluster: Cluster) -> None:
    session_id, stream = "", client.reason(EXAMPLES[1].question, images=[EXAMPLES[1].image])
    async with aclosing(stream) as events:
        async for event in events:
            if isinstance(event, dreamr.Started):
                session_id = event.session_id
            elif isinstance(event, dreamr.Commit):
                break
    async with asyncio.timeout(10):
        while (session := await client.session(session_id)).held:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)
    # What was on its way through the services when the client left may still come; nothing may follow that.
    await at_rest(cluster.triton.metrics_address)
    await asyncio.sleep(0.5)
    resting = await at_rest(cluster.triton.metrics_address)
    await asyncio.sleep(0.2)
    later = await engines(cluster.triton.metrics_address)
    for name, engine in resting.items():
        # A service's probe has its model write one token now and then; whoever still generated wrote dozens.
        assert later[name].generated_tokens - engine.generated_tokens <= 2
    # It stopped because it was left, not because it had come to its end.
    assert session.finished is None


async def test_activity_shows_work_that_overlaps(client: dreamr.AsyncClient) -> None:
    parts = set()
    # The governor would have rivals wait for a reject, of which there are few.
    async for event in client.reason(
        EXAMPLES[2].question, images=[EXAMPLES[2].image], activity=True, governor=False
    ):
        if isinstance(event, dreamr.Activity):
            parts.add(event.part)
    assert {"draft", "rival", "verdict", "answer"} <= parts


async def test_every_service_has_metrics(client: dreamr.AsyncClient, cluster: Cluster) -> None:
    await ask(client, EXAMPLES[0], "fpsr")
    for name in ("draft", "target", "verifier", "gateway"):
        samples = await scrape(cluster.metrics[name])
        assert any(sample == "dreamr_calls_total" for sample, _ in samples), name
