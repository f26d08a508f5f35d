"""GRPO on the draft, by TRL's trainer: rollouts, rewards, updates, checkpoints. Knows no cluster.

`loss_type="sapo"` of TRL is something else: Soft Adaptive Policy Optimization (arXiv 2511.20347).
"""

import json
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from services.common.pair import ReasoningSettings
from training.sapo import rewards
from training.sapo.credit import Rejected, credited
from training.sapo.dataset import as_table
from training.sapo.drafts import is_whole, load_model, load_processor
from training.sapo.questions import Question, order
from training.sapo.records import Records
from training.sapo.rollout import Rollout
from training.sapo.settings import SapoSettings

Accepted = Callable[[Sequence[Question], Sequence[Rollout]], list[int]]
"""Tells how many steps of each rollout are accepted in a row; it may block."""
OnCheckpoint = Callable[[int, Path], None]
"""Told of each checkpoint that is due for an evaluation: updates so far, and its folder; it may block."""


class Learner:
    """One run in a folder, which has the draft to begin with under `start`.

    Args:
        accepted: see `Accepted`; it is called from the learner's thread, as are the others.
        on_step: told of the updates so far, after each.
        stop: set from elsewhere, ends the run behind the update under way, with a checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        settings: SapoSettings,
        reasoning: ReasoningSettings,
        questions: Sequence[Question],
        *,
        accepted: Accepted,
        on_checkpoint: OnCheckpoint,
        on_step: Callable[[int], None] = lambda _: None,
        stop: threading.Event | None = None,
    ) -> None:
        self._settings = settings
        self._reasoning = reasoning
        self._questions = questions
        self._accepted = accepted
        self._begin = _last_checkpoint(folder)
        cuda = torch.cuda.is_available()
        micro = min(settings.micro, settings.rollouts)
        passes = settings.rollouts // micro
        functions = [
            function
            for name, function in (
                ("outcome", self.outcome),
                ("acceptance", self.acceptance),
                ("length", self.length),
            )
            if settings.weights[name]
        ]
        arguments = GRPOConfig(
            output_dir=str(folder),
            max_steps=settings.steps,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=passes,
            steps_per_generation=passes,
            num_generations=settings.group,
            num_iterations=settings.updates,
            # The order is ours, and the same however often a run is stopped.
            shuffle_dataset=False,
            max_completion_length=reasoning.max_reasoning_tokens + reasoning.max_answer_tokens,
            temperature=settings.temperature,
            reward_weights=[weight for weight in settings.weights.values() if weight],
            # Dr. GRPO (arXiv 2503.20783): neither short rollouts nor easy questions weigh more than others.
            loss_type="dr_grpo",
            scale_rewards="none",
            beta=settings.kl,
            epsilon=settings.clip,
            learning_rate=settings.rate,
            # Of those that fall, the one that need not know the end: a run may be made longer.
            lr_scheduler_type="inverse_sqrt",
            warmup_steps=settings.warm_up,
            weight_decay=0.0,
            max_grad_norm=1.0,
            logging_steps=1,
            save_strategy="steps",
            save_steps=settings.evaluate_every,
            save_total_limit=2,
            seed=settings.seed,
            use_cpu=not cuda,
            bf16=cuda,
            # A small draft has room for its activations, and no time to compute them twice.
            gradient_checkpointing=cuda,
            dataloader_pin_memory=cuda,
            disable_tqdm=True,
            report_to=[],
        )
        self._watch = _Watch(Records(folder), settings, on_checkpoint, on_step, stop or threading.Event())
        sets = -(-settings.steps // settings.updates)
        self._trainer = _Trainer(
            model=load_model(folder / "start", adapters=bool(settings.lora)),
            reward_funcs=functions,
            args=arguments,
            train_dataset=as_table(questions, order(len(questions), sets * settings.batch, settings.seed)),
            processing_class=load_processor(folder / "start"),
            callbacks=[self._watch],
            peft_config=_adapters(settings.lora) if settings.lora else None,
        )
        for printing in (PrinterCallback, ProgressCallback):
            self._trainer.remove_callback(printing)

    def learn(self) -> int:
        """Learns to the end or until it is stopped, from the last checkpoint where there is one.

        Returns the updates that the draft has had.

        Raises:
            ServiceError: no verdicts were to be had; the last checkpoint stays.
        """
        self._trainer.train(resume_from_checkpoint=self._begin)
        return int(self._trainer.state.global_step)

    # --- rewards, as TRL calls them: a completion is a list of one message, `index` the question's -----

    def outcome(self, completions: Any, completion_ids: Any, index: list[int], **_: Any) -> list[float]:
        """See `training.sapo.rewards`, as for the other two."""
        rollouts = self._rollouts(completions, completion_ids)
        return [
            rewards.outcome(rollout, self._questions[at].answer)
            for rollout, at in zip(rollouts, index, strict=True)
        ]

    def acceptance(self, completions: Any, completion_ids: Any, index: list[int], **_: Any) -> list[float]:
        """All steps of all rollouts; the verifier has them at the same time."""
        rollouts = self._rollouts(completions, completion_ids)
        accepted = self._accepted([self._questions[at] for at in index], rollouts)
        if self._settings.credit == "step":
            self._trainer.rejected = [
                Rejected.of(*one, self._decode)
                for one in zip(rollouts, accepted, completion_ids, strict=True)
            ]
        return [rewards.acceptance(*one) for one in zip(rollouts, accepted, strict=True)]

    def length(self, completions: Any, completion_ids: Any, index: list[int], **_: Any) -> list[float]:
        """Against what the target takes."""
        found = []
        for rollout, at in zip(self._rollouts(completions, completion_ids), index, strict=True):
            question = self._questions[at]
            assert question.target_tokens
            right = bool(rewards.outcome(rollout, question.answer))
            found.append(rewards.length(rollout, right, question.target_tokens))
        return found

    def _decode(self, ids: Sequence[int]) -> str:
        # As TRL decodes the completions.
        text: str = self._trainer.processing_class.decode(ids, skip_special_tokens=True)
        return text

    def _rollouts(self, completions: Any, completion_ids: Any) -> list[Rollout]:
        return [
            Rollout.of(messages[0]["content"], len(ids), self._reasoning)
            for messages, ids in zip(completions, completion_ids, strict=True)
        ]


class _Trainer(GRPOTrainer):  # type: ignore[misc] # neither TRL nor transformers has types
    """TRL's trainer that gives credit by step, and finds the weights of a checkpoint again.

    Attributes:
        rejected: of the rollouts that are being scored; empty for credit by rollout.
    """

    rejected: Sequence[Rejected | None] = ()

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        scored = super()._generate_and_score_completions(inputs)
        if self.rejected:
            length = scored["completion_ids"].shape[1]
            scored["advantages"] = credited(scored["advantages"], length, self.rejected)
        return scored

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # transformers would take tensors by their names in the file, and LLaVA's are saved under older names
        # than the model has: none would fit, and it would go on from the start with a warning.
        if is_whole(Path(resume_from_checkpoint)):
            found = load_model(Path(resume_from_checkpoint), adapters=False)
            self.model.load_state_dict(found.state_dict())
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Keeps records, has checkpoints evaluated, and stops."""

    def __init__(
        self,
        records: Records,
        settings: SapoSettings,
        on_checkpoint: OnCheckpoint,
        on_step: Callable[[int], None],
        stop: threading.Event,
    ) -> None:
        self._records = records
        self._settings = settings
        self._on_checkpoint = on_checkpoint
        self._on_step = on_step
        self._stop = stop

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step = state.global_step
        self._records.rewind(step)
        # A run that was stopped before its checkpoint was evaluated; and the draft as it was.
        if self._due(step) and all(one.step != step for one in self._records.evaluations()):
            self._on_checkpoint(step, _checkpoint(args, step))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        if "reward" in logs:
            self._records.note(state.global_step, logs)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._on_step(state.global_step)
        whole = state.global_step % self._settings.updates == 0
        if self._stop.is_set() and whole:
            control.should_training_stop = True
        if control.should_training_stop:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._due(state.global_step) and not self._stop.is_set():
            self._on_checkpoint(state.global_step, _checkpoint(args, state.global_step))

    def _due(self, step: int) -> bool:
        return step % self._settings.evaluate_every == 0 or step == self._settings.steps


def _last_checkpoint(folder: Path) -> str | None:
    """The last one that is whole; a run that was killed may have left a part of one, which is removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    while found:
        last = found.pop()
        try:
            # Written at last.
            json.loads((last / "trainer_state.json").read_text())
        except (OSError, ValueError):
            shutil.rmtree(last)
        else:
            return str(last)
    return None


def _checkpoint(args: Any, step: int) -> Path:
    return Path(args.output_dir) / (f"checkpoint-{step}" if step else "start")


def _adapters(rank: int) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
