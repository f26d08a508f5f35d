"""The programs of `examples/` against a real cluster; test_sessions_survive.py has the one that resumes."""

import asyncio
from pathlib import Path

import pytest

from dreamr.cluster.cluster import Cluster
from tests.cluster.running_examples import run_example
from training.task import held_out

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session")]


async def test_they_say_what_the_cluster_answers(cluster: Cluster, tmp_path: Path) -> None:
    (example,) = held_out(1, seed=3)
    image = tmp_path / "grid.png"
    example.image.save(image)
    asked = cluster.address, str(image), example.question
    streamed, plain, images = await asyncio.gather(
        *(run_example(name, *asked) for name in ("async_client", "sync_client", "images"))
    )
    answer = streamed[-1]
    assert answer.startswith("answer: ")
    assert [line.split()[0] for line in streamed[:-1]] == [str(index) for index in range(len(streamed) - 1)]
    assert plain[-2] == answer
    assert plain[-1].startswith("refused: ")
    assert "question" in plain[-1]
    assert [line.partition(" (")[0] for line in images] == [answer] * 3
