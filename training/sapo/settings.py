"""What a SAPO run can be told, with reasons; `dreamr sapo --help` shows them."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class SapoSettings(BaseModel):
    """Settings that a run keeps to its end: one that goes on must be given the same, but for `steps`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(400, ge=1, description="Updates of the draft. A run that goes on may be given more.")
    batch: int = Field(
        8, ge=1, description="Different questions an update: more make it steadier, and dearer in proportion."
    )
    group: int = Field(
        8,
        ge=2,
        description="Rollouts a question, compared with their own mean. With few, all are often right or all "
        "wrong, and teach nothing.",
    )
    micro: int = Field(
        64, ge=1, description="Rollouts in one forward and backward pass. Lower it where memory is short."
    )
    temperature: float = Field(
        1.0,
        gt=0,
        le=2,
        description="Of the rollouts. Below 1 a trained draft's rollouts hardly differ, and the policy that "
        "learns is not the one that wrote them.",
    )
    rate: float = Field(
        2e-4,
        gt=0,
        description="AdamW's learning rate at its highest. For a draft of billions of parameters some 1e-6; "
        "a small one takes, and needs, a hundred times as much.",
    )
    warm_up: int = Field(
        50,
        ge=1,
        description="Updates until the rate is reached: Adam's first estimates are noise. From there it "
        "falls with the square root of the updates, to half after four times as many: at a constant rate the "
        "draft forgets what it learnt.",
    )
    kl: float = Field(
        0.03,
        ge=0,
        description="Weight of the KL divergence from the draft as it was: it keeps the chain's form, which "
        "no reward asks for; more than 0.1 holds back what is to be learnt.",
    )
    clip: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="How far a token's probability may move on one set of rollouts (PPO's epsilon). It bites "
        "only with several updates a set.",
    )
    updates: int = Field(
        1,
        ge=1,
        description="Updates on each set of rollouts. A second one is cheap where verdicts are dear, and off "
        "the policy.",
    )
    outcome: float = Field(1.0, ge=0, description="Weight of the final answer's rightness.")
    acceptance: float = Field(
        1.0,
        ge=0,
        description="Weight of the share of steps accepted by the verifier, in a row from the first.",
    )
    length: float = Field(
        1.0,
        ge=0,
        description="Weight of the length against the target's own; never in a wrong answer's favour.",
    )
    credit: Literal["step", "rollout"] = Field(
        "step",
        description="Who gets a rollout's advantage. `step`: praise for the accepted steps, blame for the "
        "rejected one alone, nothing for what is behind it. `rollout`: all of it, as in plain GRPO, where a "
        "misread digit is blamed on a hundred right tokens too.",
    )
    alpha: float | None = Field(
        None, ge=0, le=1, description="What a step's score is compared with; the pair's own by default."
    )
    verdicts_at_once: int = Field(
        16, ge=1, le=256, description="Calls to the verifier in flight at most. More only wait in the target."
    )
    evaluate_every: int = Field(
        100, ge=1, description="Updates between two checkpoints, each evaluated through the whole cluster."
    )
    validation: int = Field(
        200,
        ge=1,
        description="Questions of an evaluation, neither trained on nor the test. With 200, of which a tenth "
        "comes out differently by policy, a difference in accuracy is known to 4 points.",
    )
    max_loss: float = Field(
        0.005,
        ge=0,
        le=1,
        description="Accuracy that a checkpoint may lose against the target at most; where the draft "
        "that training starts from loses more, as much as that one.",
    )
    margin: float = Field(
        0.06,
        ge=0,
        le=1,
        description="How low the 95% interval of that difference may reach, or that of the draft that "
        "training starts from: few questions hide a loss.",
    )
    lora: int = Field(
        0,
        ge=0,
        description="Rank of LoRA adapters on all linear layers; 0 trains every weight, "
        "which a large draft's optimizer has no memory for.",
    )
    seed: int = Field(0, ge=0, description="Of questions and rollouts.")

    @property
    def rollouts(self) -> int:
        """Rollouts that one set has."""
        return self.batch * self.group

    @property
    def weights(self) -> dict[str, float]:
        """The rewards' weights by name."""
        return {"outcome": self.outcome, "acceptance": self.acceptance, "length": self.length}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.rollouts % min(self.micro, self.rollouts):
            raise ValueError(f"micro: must divide the {self.rollouts} rollouts of an update")
        if self.evaluate_every % self.updates:
            # What is left of a set of rollouts is not in a checkpoint.
            raise ValueError("evaluate_every: must be a multiple of updates")
        if not any(self.weights.values()):
            raise ValueError("outcome, acceptance, length: one of the weights must be above 0")
        return self
