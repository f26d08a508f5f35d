"""`python -m training.sapo.ablation`: runs with other weights of the rewards, and a table of their ends.

Each run has a folder of its own and goes on where it was stopped; one that is over is not done again. What
the weights do not change is asked once, and copied: what the target takes for a seed's questions, and how
good the draft was before.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from training.sapo.evaluation import Evaluation
from training.sapo.records import TOKENS, Records
from training.sapo.settings import SapoSettings

MAIN = ((1, 0, 0), (0, 1, 0), (1, 1, 1))
"""Weights of outcome, acceptance and length; these with every seed."""
OTHERS = ((0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (3, 1, 1), (1, 1, 3))

Weights = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Row:
    """One weighting: what its runs ended with, by seed; and the draft as it was."""

    weights: Weights
    before: Evaluation
    after: Mapping[int, Evaluation]


def planned(seeds: Sequence[int]) -> list[tuple[Weights, int]]:
    """Every run: weights and seed. All weights come with the first seed before any with another."""
    return [(weights, seeds[0]) for weights in MAIN + OTHERS] + [
        (weights, seed) for seed in seeds[1:] for weights in MAIN
    ]


def table(rows: Sequence[Row]) -> str:
    """Markdown. Of several seeds the mean, and the lowest and highest in brackets."""
    head = "| outcome : acceptance : length | seeds | accepted | right against target | speedup | tokens |\n"
    lines = [head, "|---|---|---|---|---|---|\n"]
    if rows:
        before = rows[0].before
        lines.append(
            f"| the draft as it was | | {before.acceptance:.1%} | {before.difference.value:+.1%} "
            f"| {before.speedup.value:.2f} | {before.tokens['fpsr']:.1f} |\n"
        )
    for row in rows:
        found = list(row.after.values())
        lines.append(
            f"| {' : '.join(map(str, row.weights))} | {len(found)} "
            f"| {_spread([one.acceptance for one in found], '.1%')} "
            f"| {_spread([one.difference.value for one in found], '+.1%')} "
            f"| {_spread([one.speedup.value for one in found], '.2f')} "
            f"| {_spread([one.tokens['fpsr'] for one in found], '.1f')} |\n"
        )
    return "".join(lines)


def rows_of(folder: Path, seeds: Sequence[int]) -> list[Row]:
    """What the runs in the folder that are over have found."""
    found: dict[Weights, dict[int, list[Evaluation]]] = {}
    for weights, seed in planned(seeds):
        evaluations = Records(_folder(folder, weights, seed)).evaluations()
        if _is_over(folder, weights, seed, evaluations):
            found.setdefault(weights, {})[seed] = evaluations
    return [
        Row(
            weights,
            next(iter(by_seed.values()))[0],
            {seed: evaluations[-1] for seed, evaluations in by_seed.items()},
        )
        for weights, by_seed in found.items()
    ]


def share(folder: Path, run: Path, seed: int, seeds: Sequence[int]) -> None:
    """Copies into a run's folder what another in `folder` has asked already."""
    for weights, other_seed in planned(seeds):
        other = _folder(folder, weights, other_seed)
        if not Records(run).evaluations() and (known := Records(other).evaluations()):
            Records(run).add(known[0])
        tokens = other / TOKENS
        if other_seed == seed and tokens.exists() and not (run / TOKENS).exists():
            shutil.copyfile(tokens, run / TOKENS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is left to run, and writes `ablation.md` after each run."""
    parser = argparse.ArgumentParser(prog="python -m training.sapo.ablation", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("training/runs/ablation"))
    parser.add_argument("--steps", type=int, default=150, help="updates of each run")
    parser.add_argument(
        "--draft",
        type=Path,
        default=Path("models/repository/draft/1/weights"),
        help="the draft that every run in the folder begins with",
    )
    parser.add_argument("--validation", type=int, default=100, help="questions of an evaluation")
    parser.add_argument("--seeds", default="0,1,2", help="of the main weightings; the others take the first")
    options = parser.parse_args(arguments)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    # Before torch is there; see `dreamr.cli.sapo`.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from dreamr.cli.running import run
    from training.sapo.run import Sapo, Told, quiet

    quiet()
    for weights, seed in planned(seeds):
        outcome, acceptance, length = weights
        settings = SapoSettings(
            steps=options.steps,
            evaluate_every=options.steps,
            validation=options.validation,
            outcome=outcome,
            acceptance=acceptance,
            length=length,
            seed=seed,
        )
        work = Sapo(_folder(options.folder, weights, seed), settings, draft=options.draft)
        begun = (work.folder / "settings.json").exists()
        work.prepare(resume=begun)
        share(options.folder, work.folder, seed, seeds)
        if not begun or not _is_over(options.folder, weights, seed, Records(work.folder).evaluations()):
            sys.stderr.write(f"{weights}, seed {seed}\n")
            run(work.learn(Told()))
        text = table(rows_of(options.folder, seeds))
        (options.folder / "ablation.md").write_text(text)
    sys.stdout.write((options.folder / "ablation.md").read_text())


def _folder(folder: Path, weights: Weights, seed: int) -> Path:
    return folder / f"{'-'.join(map(str, weights))}-seed-{seed}"


def _is_over(folder: Path, weights: Weights, seed: int, evaluations: Sequence[Evaluation]) -> bool:
    """Whether a run has come to its end."""
    path = _folder(folder, weights, seed) / "settings.json"
    return bool(evaluations) and evaluations[-1].step == json.loads(path.read_text())["steps"]


def _spread(values: Sequence[float], form: str) -> str:
    if len(values) == 1:
        return f"{values[0]:{form}}"
    return f"{fmean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
