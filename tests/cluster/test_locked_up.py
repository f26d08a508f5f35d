"""A Triton that lives and answers nothing is started anew, or given up for its container to be."""

import asyncio
import signal
from pathlib import Path

import pytest

import dreamr
from bench.chaos.fight import PAIR
from bench.questions import emulated
from dreamr.cluster import guard
from dreamr.cluster.cluster import Cluster
from dreamr.cluster.pairs import PairFiles
from dreamr.cluster.processes import ProcessError
from dreamr.cluster.serve import serve
from dreamr.cluster.triton import TritonServer

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "EVERY_SECONDS", 0.7)


async def test_a_cluster_starts_it_anew_and_loses_no_session() -> None:
    (question,) = emulated(1, seed=7)
    told: list[str] = []
    async with (
        Cluster(pair=PAIR) as cluster,
        dreamr.AsyncClient(cluster.address, timeout=90) as client,
    ):
        watching = asyncio.create_task(cluster.watch(told.append))
        # The guard has seen it well.
        await asyncio.sleep(4)
        asking = asyncio.create_task(client.ask(question.text, images=[question.image]))
        await asyncio.sleep(0.5)
        before = cluster.pids()["triton"]
        # All its threads are held, as those that take streams are in a Triton that is locked up.
        cluster.triton.signal(signal.SIGSTOP)
        assert (await asking).answer == question.answer
        assert cluster.pids()["triton"] != before
        assert set(told) == {"triton was locked up; it is started anew"}
        assert not watching.done()
        watching.cancel()
        await asyncio.wait({watching})


async def test_a_busy_one_is_let_be(tmp_path: Path) -> None:
    files = PairFiles.of(PAIR, None, tmp_path)
    async with TritonServer(files.repository, http=False) as server:
        looking = asyncio.create_task(guard.locked_up(server))
        await asyncio.sleep(4)
        assert not looking.done()
        server.signal(signal.SIGSTOP)
        await asyncio.sleep(1.5)
        server.signal(signal.SIGCONT)
        await asyncio.sleep(2)
        assert not looking.done(), "one that was held for a moment is well again"
        server.signal(signal.SIGSTOP)
        await asyncio.wait_for(looking, 20)
        server.kill()


async def test_in_a_container_it_ends(tmp_path: Path) -> None:
    files = PairFiles.of(PAIR, None, tmp_path)
    server = TritonServer(files.repository, http=False)
    serving = asyncio.create_task(serve(server, ["sleep", "60"], asyncio.Event(), 5.0))
    async with asyncio.timeout(60):
        await asyncio.wait_for(_ready(server), 30)
        # The guard has seen it well.
        await asyncio.sleep(4)
        server.signal(signal.SIGSTOP)
        with pytest.raises(ProcessError, match="locked up"):
            await serving
    assert server.pid is None


async def _ready(server: TritonServer) -> None:
    while "Started GRPCInferenceService" not in server.tail():  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.1)
