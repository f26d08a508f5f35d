"""What a run leaves in its folder beside checkpoints: figures of each update and each evaluation."""

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from training.sapo.evaluation import Evaluation

COLUMNS = {
    "step": "step",
    "rewards/outcome/mean": "outcome",
    "rewards/acceptance/mean": "acceptance",
    "rewards/length/mean": "length",
    "reward": "reward",
    "frac_reward_zero_std": "groups_without_spread",
    "completions/mean_length": "tokens",
    "completions/clipped_ratio": "cut_off",
    "kl": "kl",
    "entropy": "entropy",
    "clip_ratio/region_mean": "clipped",
    "grad_norm": "gradient",
    "learning_rate": "rate",
    "loss": "loss",
    "step_time": "seconds",
}
"""TRL's names and ours; a weight of 0 leaves its reward's column empty."""


TOKENS = "target-tokens.json"
"""What the target takes for each training question, in their order."""


class Records:
    """`metrics.csv` and `evaluations.jsonl` of a run; both are written as it goes."""

    def __init__(self, folder: Path) -> None:
        self.metrics_path = folder / "metrics.csv"
        self.evaluations_path = folder / "evaluations.jsonl"

    def rewind(self, step: int) -> None:
        """Forgets what came behind a checkpoint's step: it is done again."""
        if rows := self.metrics():
            self._write([row for row in rows if row["step"] <= step])
        kept = [one for one in self.evaluations() if one.step <= step]
        text = "".join(json.dumps(one.as_json()) + "\n" for one in kept)
        if self.evaluations_path.exists():
            self.evaluations_path.write_text(text)

    def note(self, step: int, figures: Mapping[str, float]) -> None:
        """Adds an update's figures, of those that TRL logs."""
        new = not self.metrics_path.exists()
        with self.metrics_path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS.values())
            if new:
                writer.writeheader()
            row = {ours: figures[name] for name, ours in COLUMNS.items() if name in figures}
            writer.writerow({"step": step, **{name: f"{value:.6g}" for name, value in row.items()}})

    def add(self, evaluation: Evaluation) -> None:
        """Adds an evaluation."""
        with self.evaluations_path.open("a") as file:
            file.write(json.dumps(evaluation.as_json()) + "\n")

    def metrics(self) -> list[dict[str, float]]:
        """A row an update; without the columns that are empty."""
        if not self.metrics_path.exists():
            return []
        with self.metrics_path.open(newline="") as file:
            return [
                {name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)
            ]

    def evaluations(self) -> list[Evaluation]:
        """In order."""
        if not self.evaluations_path.exists():
            return []
        lines = self.evaluations_path.read_text().splitlines()
        return [Evaluation.from_json(json.loads(line)) for line in lines]

    def _write(self, rows: Iterable[Mapping[str, float]]) -> None:
        with self.metrics_path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS.values())
            writer.writeheader()
            writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in rows)
