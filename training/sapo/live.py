"""The cluster that a run learns from: its verifier judges, and all of it tries out each checkpoint."""

import asyncio
import itertools
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from dreamr.client import AsyncClient
from dreamr.cluster.cluster import Cluster
from dreamr.cluster.pairs import PairFiles
from dreamr.cluster.versions import new_version, versions
from dreamr.tls import Tls
from dreamr.v1 import verifier_pb2_grpc
from services.common.channel import open_channel
from services.common.errors import UnavailableError
from services.common.pair import Pair
from services.common.triton import TritonModel
from training.sapo.evaluation import Evaluation, evaluate
from training.sapo.judge import Judge
from training.sapo.questions import Question
from training.sapo.rollout import Rollout
from training.sapo.settings import SapoSettings

LOAD_SECONDS = 300.0
WARM_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Running:
    """A target and a verifier that run elsewhere: HOST:PORT each."""

    target: str
    verifier: str


class Live:
    """A cluster of the run's own, whose repository is in the run's folder; see `open`."""

    def __init__(
        self,
        client: AsyncClient,
        judge: Judge,
        draft: TritonModel,
        folder: Path,
        settings: SapoSettings,
        validation: Sequence[Question],
    ) -> None:
        self._client = client
        self._judge = judge
        self._draft = draft
        self._folder = folder
        self._settings = settings
        self._validation = validation

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        folder: Path,
        pair: str,
        repository: Path | None,
        settings: SapoSettings,
        validation: Sequence[Question],
        *,
        running: Running | None = None,
        tls: Path | None = None,
    ) -> AsyncIterator["Live"]:
        """Starts the cluster for the block, with the pair's own draft.

        Args:
            folder: of the run; the models' repository is copied to it.
            repository: of a pair of one's own; the bundled one's by default.
            running: parts to use instead of starting them; then only the draft's side is started.
            tls: folder with certificates.
        """
        files = PairFiles.of(pair, repository, folder)
        names = Pair.load(files.settings)
        copy = folder / "repository"
        shutil.rmtree(copy, ignore_errors=True)
        for name in {names.draft.triton_model} | ({names.target.triton_model} if not running else set()):
            _copy_model(files.repository / name, copy / name)
        found = {"target": running.target, "verifier": running.verifier} if running else None
        # Calls of an evaluation come on top of the verdicts'.
        cluster = Cluster(pair=pair, repository=copy, running=found, tls=tls, keep_logs=folder / "logs")
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(cluster)
            client = AsyncClient(cluster.address, tls=Tls.of(tls) if tls else None)
            await stack.enter_async_context(client)
            # The verifier takes calls from gateways only.
            shown = Tls.of(tls, "gateway") if tls else None
            channel = open_channel(cluster.addresses["verifier"], "verifier", shown)
            await stack.enter_async_context(channel)
            judge = Judge(
                verifier_pb2_grpc.VerifierServiceStub(channel),
                alpha=settings.alpha,
                at_once=settings.verdicts_at_once,
            )
            draft = TritonModel(
                cluster.triton.grpc_address, names.draft.triton_model, "triton" if tls else "", shown
            )
            stack.push_async_callback(draft.close)
            yield cls(client, judge, draft, copy / names.draft.triton_model, settings, validation)

    async def accepted(self, questions: Sequence[Question], rollouts: Sequence[Rollout]) -> list[int]:
        """See `Judge.accepted`."""
        return await self._judge.accepted(questions, rollouts)

    async def evaluate(self, step: int, weights: Path) -> Evaluation:
        """Loads a draft beside the one that is there, which then goes, and asks the validation questions.

        Raises:
            ServiceError: Triton does not load it, or it has no part in answers.
            DreamrError: the cluster does not answer.
        """
        before = versions(self._folder)
        await asyncio.to_thread(new_version, self._folder, weights)
        await self._draft.load(LOAD_SECONDS)
        for version in before[:-1]:
            await asyncio.to_thread(shutil.rmtree, self._folder / str(version))
        await self._warm_up()
        return await evaluate(self._client, self._validation, step, self._settings.seed + step)

    async def measured(self, question: Question) -> Question:
        """The question with what the target itself takes for it."""
        answer = await self._client.ask(question.text, images=question.images, policy="target")
        tokens = answer.totals.target.generated_tokens
        return replace(question, target_tokens=max(1, tokens))

    async def _warm_up(self) -> None:
        """Some questions until the new draft has part in them: the first ones take longer."""
        try:
            async with asyncio.timeout(WARM_SECONDS):
                for question in itertools.cycle(self._validation):
                    answer = await self._client.ask(question.text, images=question.images, governor=False)
                    if not answer.degraded:
                        return
                    await asyncio.sleep(0.5)
        except TimeoutError:
            logs = self._folder.parents[1] / "logs"
            raise UnavailableError(f"the draft has no part in answers; see {logs}") from None


def _copy_model(source: Path, to: Path) -> None:
    """The model with its last version only: a copy that checkpoints are added to."""
    last = versions(source)[-1]
    to.mkdir(parents=True)
    for entry in source.iterdir():
        if entry.is_file():
            shutil.copy2(entry, to)
    shutil.copytree(source / str(last), to / str(last))
