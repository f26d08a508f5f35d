"""The emulated pair on real Triton, a hundred times as fast as its profile, so that a test can wait."""

import asyncio
import os
import re
import signal
from pathlib import Path

import pytest

import dreamr
from bench.models import engines
from bench.questions import emulated
from dreamr.cluster.cluster import Cluster
from dreamr.cluster.pairs import PROFILES, PairError, PairFiles

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module")]


def quick(folder: Path) -> Path:
    """A profile with iterations a hundred times as short."""
    text = (PROFILES / "qwen3vl-32b-2b.toml").read_text()
    path = folder / "quick.toml"
    path.write_text(
        re.sub(r"iteration_ms = (\S+)", lambda found: f"iteration_ms = {float(found[1]) / 100}", text)
    )
    return path


async def test_every_policy_gives_the_pairs_answer(tmp_path: Path) -> None:
    (question,) = emulated(1, seed=5)
    async with (
        Cluster(pair=f"emulated:{quick(tmp_path)}") as cluster,
        dreamr.AsyncClient(cluster.address, timeout=60) as client,
    ):
        answers = {
            policy: await client.ask(question.text, images=[question.image], policy=policy)
            for policy in ("target", "fpsr", "specreason", "lookahead", "exact")
        }
    assert {answer.answer for answer in answers.values()} == {question.answer}
    own = [step.text for step in answers["target"].steps]
    assert [step.text for step in answers["exact"].steps] == own
    assert len(answers["fpsr"].steps) == len(own)
    for policy in ("fpsr", "specreason"):
        assert answers[policy].totals.accepted
        assert answers[policy].totals.rejected
        assert not answers[policy].degraded


async def test_an_unknown_pair_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(PairError, match="emulated:qwen3vl-32b-2b"):
        PairFiles.of("emulated:none", None, tmp_path)
    with pytest.raises(PairError, match="bundled"):
        PairFiles.of("none.toml", None, tmp_path)


async def test_each_draft_worker_drafts_and_a_lost_one_is_done_without(tmp_path: Path) -> None:
    questions = emulated(9, seed=6)
    told: list[str] = []
    async with (
        Cluster(pair=f"emulated:{quick(tmp_path)}", draft_workers=3) as cluster,
        dreamr.AsyncClient(cluster.address, timeout=60) as client,
    ):
        assert {"draft", "draft-2", "draft-3", "triton", "triton-2", "triton-3"} <= set(cluster.pids())
        asking = [client.ask(question.text, images=[question.image]) for question in questions]
        answers = await asyncio.gather(*asking)
        assert [answer.answer for answer in answers] == [question.answer for question in questions]
        for server in cluster.tritons.values():
            assert (await engines(server.metrics_address))["draft"].generated_tokens
        watching = asyncio.create_task(cluster.watch(told.append))
        os.kill(cluster.pids()["triton-2"], signal.SIGKILL)
        cluster.processes["draft-3"].kill()
        asking = [client.ask(question.text, images=[question.image]) for question in questions]
        assert [answer.answer for answer in await asyncio.gather(*asking)] == [
            question.answer for question in questions
        ]
        assert not watching.done()
        watching.cancel()
        await asyncio.wait({watching})
    assert sorted(text.partition(" ended; the cluster goes on")[0] for text in told) == [
        "draft-3",
        "triton-2",
    ]
