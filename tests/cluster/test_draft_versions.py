"""A new version of the draft is tried, promoted and rolled back under load: no session notices."""

import asyncio
import shutil
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.questions import Question, held_out
from dreamr.cli.main import app
from dreamr.client import AsyncClient
from dreamr.cluster.cluster import Cluster
from dreamr.cluster.triton import MODELS
from dreamr.cluster.versions import new_version
from dreamr.events import Commit
from dreamr.versions import NAME, VersionFile

pytestmark = pytest.mark.cluster
AT_ONCE = 3


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    shutil.copytree(MODELS / "repository", tmp_path / "repository")
    draft = tmp_path / "repository" / "draft"
    for folder in draft.iterdir():
        if folder.name.isdecimal() and folder.name != "1":
            shutil.rmtree(folder)
    return tmp_path / "repository"


class Load:
    """Asks without a pause until it is told to stop; knows which version drafted for each session."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._stop = asyncio.Event()
        self.answers = Counter[bool]()
        self.versions = Counter[int]()
        self.degraded = 0

    async def run(self) -> None:
        questions = held_out(20, seed=3)
        async with asyncio.TaskGroup() as group:
            for lane in range(AT_ONCE):
                group.create_task(self._ask(questions[lane::AT_ONCE]))

    def stop(self) -> None:
        self._stop.set()

    async def _ask(self, questions: list[Question]) -> None:
        number = 0
        while not self._stop.is_set():
            question = questions[number % len(questions)]
            answer = await self._client.ask(question.text, images=[question.image])
            self.answers[answer.answer == question.answer] += 1
            self.versions[answer.steps[-1].draft_version] += 1
            self.degraded += bool(answer.degraded)
            number += 1

    async def seen(self, version: int, times: int = 5) -> None:
        """Waits until sessions of a version have ended so many times more."""
        before = self.versions[version]
        async with asyncio.timeout(120):
            while self.versions[version] < before + times:  # noqa: ASYNC110 - ends in other tasks
                await asyncio.sleep(0.05)


async def command(*arguments: str) -> str:
    result = await asyncio.to_thread(CliRunner().invoke, app, ["draft", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.timeout(600)
async def test_promotion_and_rollback_under_load(repository: Path) -> None:
    async with Cluster(repository=repository) as cluster, AsyncClient(cluster.address, timeout=120) as client:
        load = Load(client)
        running = asyncio.create_task(load.run())
        await load.seen(1)
        new_version(repository / "draft", repository / "draft" / "1" / "weights")
        where = ["--repository", str(repository), "--triton", cluster.triton.grpc_address]
        await command("promote", "2", "--share", "0.5", *where)
        await load.seen(2)
        await load.seen(1)
        shown = await command(
            "list", "--repository", str(repository), "--metrics", cluster.metrics["gateway"]
        )
        assert [line.split()[:2] for line in shown.splitlines()[1:3]] == [["1", "50%"], ["2", "50%"]]
        judged = {line.split()[0]: int(line.split()[3]) for line in shown.splitlines()[1:3]}
        assert min(judged.values()) > 0
        # One that is asked for is the one that drafts, whatever the shares are.
        question = held_out(1, seed=9)[0]
        for version in (1, 2):
            stream = client.reason(question.text, images=[question.image], draft_version=version)
            commits = [event async for event in stream if isinstance(event, Commit)]
            assert commits[-1].draft_version == version
        await command("promote", "2", *where)
        await load.seen(2)
        await command("rollback", *where)
        await load.seen(1)
        load.stop()
        await running
    assert sum(load.answers.values()) >= 20
    assert load.answers[True] > 0.8 * sum(load.answers.values())
    assert load.degraded == 0
    assert VersionFile.load(repository / "draft" / NAME) == VersionFile(stable=1, previous=2)
    # The next start loads the same.
    assert "versions: [ 1 ]" in (repository / "draft" / "config.pbtxt").read_text()
