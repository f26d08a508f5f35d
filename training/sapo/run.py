"""One SAPO run, from questions to the best checkpoint: the learner in a thread, the cluster in the loop."""

import asyncio
import json
import shutil
import threading
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from transformers.utils import logging

from dreamr.cluster.pairs import PairFiles
from dreamr.cluster.versions import versions
from services.common.pair import Pair
from training.sapo.drafts import begin, export
from training.sapo.evaluation import Evaluation, best
from training.sapo.learner import Learner
from training.sapo.live import Live, Running
from training.sapo.questions import Question, bundled, from_file, split
from training.sapo.records import TOKENS, Records
from training.sapo.settings import SapoSettings

Result = TypeVar("Result")
ASKED_AT_ONCE = 8


class RunError(ValueError):
    """The run cannot be started, or go on; the message says why."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a run tells while it goes.

    Attributes:
        step: updates so far.
        evaluated: after each evaluation.
    """

    step: Callable[[int], None] = lambda _: None
    evaluated: Callable[[Evaluation], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Sapo:
    """One run.

    Attributes:
        folder: everything the run writes.
        draft: the Hugging Face folder to begin with; None for the last version of the pair's draft.
        file: questions of one's own; None for the bundled task's.
        minutes: after which it stops with a checkpoint.
    """

    folder: Path
    settings: SapoSettings
    pair: str = "bundled"
    repository: Path | None = None
    draft: Path | None = None
    file: Path | None = None
    running: Running | None = None
    tls: Path | None = None
    minutes: float | None = None

    @property
    def best_folder(self) -> Path:
        """Weights of the best checkpoint so far."""
        return self.folder / "best"

    def prepare(self, *, resume: bool) -> None:
        """Makes the run's folder, or checks that the one that is there can go on.

        Raises:
            RunError: there is a run and it was not asked for, there is none and it was, or its settings are
                others.
        """
        path = self.folder / "settings.json"
        mine = self.settings.model_dump()
        if path.exists():
            if not resume:
                raise RunError(f"{self.folder} holds a run: go on with --resume, or name another folder")
            before = json.loads(path.read_text())
            others = sorted(name for name in mine if name != "steps" and mine[name] != before.get(name))
            if others:
                raise RunError(f"{self.folder} was begun with other settings: {', '.join(others)}")
        elif resume:
            raise RunError(f"{self.folder} holds no run to go on with")
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            files = PairFiles.of(self.pair, self.repository, self.folder)
            model = files.repository / Pair.load(files.settings).draft.triton_model
            draft = self.draft or model / str(versions(model)[-1]) / "weights"
            if not (draft / "config.json").is_file():
                raise RunError(f"{draft} is no Hugging Face folder; name the draft's with --draft")
            shutil.rmtree(self.folder / "start", ignore_errors=True)
            begin(draft, self.folder / "start")
        path.write_text(json.dumps(mine, indent=2) + "\n")

    async def learn(self, told: Told) -> int:
        """Starts the cluster and learns, to the end or until cancelled; a checkpoint is left in any case.

        Returns the updates that the draft has had.

        Raises:
            RunError: there are too few questions.
            ServiceError, DreamrError: the cluster failed; what was learnt up to the last checkpoint stays.
        """
        settings = self.settings
        try:
            training, validation = await asyncio.to_thread(self._questions)
        except ValueError as error:
            raise RunError(str(error)) from error
        async with Live.open(
            self.folder,
            self.pair,
            self.repository,
            settings,
            validation,
            running=self.running,
            tls=self.tls,
        ) as live:
            training = await self._measured(training, live)
            loop = asyncio.get_running_loop()

            def wait(work: Coroutine[Any, Any, Result]) -> Result:
                return asyncio.run_coroutine_threadsafe(work, loop).result()

            def on_checkpoint(step: int, checkpoint: Path) -> None:
                told.evaluated(self._evaluate(step, checkpoint, lambda *of: wait(live.evaluate(*of))))

            stop = threading.Event()
            learner = await asyncio.to_thread(
                Learner,
                self.folder,
                settings,
                Pair.load(PairFiles.of(self.pair, self.repository, self.folder).settings).reasoning,
                training,
                accepted=lambda questions, rollouts: wait(live.accepted(questions, rollouts)),
                on_checkpoint=on_checkpoint,
                on_step=told.step,
                stop=stop,
            )
            return await _until_stopped(asyncio.to_thread(learner.learn), stop, self.minutes)

    def best(self) -> Evaluation | None:
        """The best checkpoint's evaluation, by the rule of `training.sapo.evaluation.best`."""
        return best(Records(self.folder).evaluations(), self.settings)

    def _evaluate(
        self, step: int, checkpoint: Path, through: Callable[[int, Path], Evaluation]
    ) -> Evaluation:
        weights = self.folder / "evaluated"
        shutil.rmtree(weights, ignore_errors=True)
        export(self.folder / "start", checkpoint, weights, f"then {step:,} updates of SAPO (`dreamr sapo`).")
        evaluation = through(step, weights)
        Records(self.folder).add(evaluation)
        if self.best() == evaluation:
            shutil.rmtree(self.best_folder, ignore_errors=True)
            weights.replace(self.best_folder)
        return evaluation

    def _questions(self) -> tuple[list[Question], list[Question]]:
        settings = self.settings
        if self.file:
            return split(from_file(self.file), settings.validation, settings.seed)
        count = -(-settings.steps // settings.updates) * settings.batch
        return (
            bundled(count, settings.seed),
            # The same for every seed, so that runs compare.
            bundled(settings.validation, 0, validation=True),
        )

    async def _measured(self, questions: Sequence[Question], live: Live) -> list[Question]:
        """The questions with what the target takes for each; asked once in a run, and kept in its folder."""
        if not self.settings.length or all(question.target_tokens for question in questions):
            return list(questions)
        path = self.folder / TOKENS
        known = json.loads(path.read_text()) if path.exists() else []
        places = asyncio.Semaphore(ASKED_AT_ONCE)

        async def ask(question: Question) -> Question:
            if question.target_tokens:
                return question
            async with places:
                return await live.measured(question)

        if len(known) != len(questions):
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(ask(question)) for question in questions]
            known = [task.result().target_tokens for task in tasks]
            path.write_text(json.dumps(known))
        return [replace(one, target_tokens=tokens) for one, tokens in zip(questions, known, strict=True)]


def quiet() -> None:
    """No progress bars of libraries, and none of their notes to each other."""
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|trl")


async def _until_stopped(learning: Awaitable[int], stop: threading.Event, minutes: float | None) -> int:
    """Waits for the learner. When cancelled, or out of time, it ends by itself first, with a checkpoint."""
    task = asyncio.ensure_future(learning)
    try:
        async with asyncio.timeout(minutes * 60 if minutes else None):
            return await asyncio.shield(task)
    except TimeoutError:
        stop.set()
        return await asyncio.shield(task)
    finally:
        stop.set()
        # A thread cannot be cancelled: without this its calls would outlive the cluster.
        await asyncio.wait({task})
