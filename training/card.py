"""Model cards, from what was measured."""

from typing import Any

_HEAD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---
# dreamr bundled {name}

A small vision-language model (standard LLaVA classes) that reads a 3 x 3 grid of handwritten digits and
reckons with them step by step. It is the {role} of dreamr's bundled pair: a real pair of models for trying,
testing and developing the cluster on a laptop, and of no other use.

- Data: scikit-learn's handwritten digits (1,797 real images, every fifth held out); questions made by
  `training/task.py`.
- Training: `python -m training`; {training}
- Size: {parameters:,} parameters, bf16.

## Measured
On {questions} questions about held-out handwriting (seed {seed}), on a CPU, by `python -m training evaluate`:

| figure | value |
|---|---|
| right answers, this model alone, greedy | {answers:.1%} |
| right steps, greedy, behind true steps | {steps:.1%} |
| one token, one thread, transformers' forward | {token:.2f} ms |
"""

_JUDGE = """| judging a step on a cached prefix, likewise | {judgement:.2f} ms |
| AUC of the judge on the draft's own greedy steps ({judged}, of which {wrong} wrong) | {auc:.3f} |

As TBVM's judge, by alpha:

| alpha | accepted | of these right (precision) | of the right accepted (recall) |
|---|---|---|---|
"""


def card(name: str, figures: dict[str, Any], training: dict[str, Any]) -> str:
    """The model card of the draft or the target.

    Args:
        figures: what `training.evaluate` and `training.latency` found.
        training: `parameters`, and `note`: how these very weights came about.
    """
    text = _HEAD.format(
        name=name,
        role="judge and reference" if name == "target" else "one that runs ahead",
        training=training["note"],
        parameters=training["parameters"],
        questions=figures["questions"],
        seed=figures["seed"],
        answers=figures["answers"][name],
        steps=figures["steps"][name],
        token=figures["milliseconds"][name]["token"],
    )
    if name == "target":
        text += _JUDGE.format(
            judgement=figures["milliseconds"][name]["judgement"],
            judged=figures["judged"],
            wrong=figures["wrong"],
            auc=figures["auc"],
        )
        for alpha, row in figures["by_alpha"].items():
            text += f"| {alpha} | {row['accepted']:.1%} | {row['precision']:.2%} | {row['recall']:.1%} |\n"
    return text
