"""Whole steps out of a generation, whatever its pieces look like. The model here is a fake."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.common.pair import ReasoningSettings
from services.common.steps import OnProgress, StepWriter, Written
from services.common.triton import Chunk, Sampling, TritonModel


class FakeModel(TritonModel):
    """Says what it is told to, one generation after the other; the last one again and again."""

    def __init__(self, *generations: list[Chunk]) -> None:
        self._said = list(generations)
        self.parameters: dict[str, Any] = {}
        self.prompts: list[str] = []
        self.seeds: list[int | None] = []

    @asynccontextmanager
    async def generate(
        self,
        prompt: str,
        images: Sequence[bytes],
        parameters: dict[str, Any],
        *,
        stream: bool,
        seconds: float,
        version: int | None = None,
    ) -> AsyncIterator[AsyncIterator[Chunk]]:
        self.parameters = parameters
        self.prompts.append(prompt)
        self.seeds.append(parameters.get("seed"))
        said = self._said.pop(0) if len(self._said) > 1 else self._said[0]

        async def pieces() -> AsyncIterator[Chunk]:
            for chunk in said:
                yield chunk

        yield pieces()


def said(*texts: str, reason: str = "stop") -> list[Chunk]:
    return [
        Chunk(text, 1, 10, finish_reason=reason if place == len(texts) - 1 else None)
        for place, text in enumerate(texts)
    ]


@pytest.mark.parametrize(
    ("texts", "reason", "text", "closes", "truncated"),
    [
        (("a b", " .", "\n\n"), "stop", "a b .", False, False),
        (("a b .\n", "</think>"), "stop", "a b .", True, False),
        (("a b .",), "stop", "a b .", True, False),  # end of sequence
        (("a b",), "length", "a b", False, True),
    ],
)
async def test_one_step(
    texts: tuple[str, ...], reason: str, text: str, closes: bool, truncated: bool
) -> None:
    model = FakeModel(said(*texts, reason=reason))
    writer = StepWriter(model, ReasoningSettings())
    progress: list[int] = []
    written = await writer.write("p", [], Sampling(), max_tokens=9, seconds=1, on_progress=progress.append)
    step = written.step
    assert (step.text, step.closes, step.truncated) == (text, closes, truncated)
    assert step.tokens == len(texts)
    assert progress == list(range(1, len(texts) + 1))
    assert model.parameters["stop"] == ["\n\n", "</think>"]


async def test_a_bare_delimiter_is_asked_behind_once_more() -> None:
    model = FakeModel(said("\n\n"))
    writer = StepWriter(model, ReasoningSettings())
    step = (await writer.write("p", [], Sampling(), max_tokens=9, seconds=1)).step
    assert (step.text, step.closes, step.truncated, step.tokens) == ("", False, True, 2)


def running_on(
    writer: StepWriter, max_tokens: int, max_step_tokens: int = 99, on_progress: OnProgress | None = None
) -> AsyncIterator[Written]:
    return writer.run_on(
        "p",
        [],
        Sampling(1.0, seed=7),
        max_tokens=max_tokens,
        max_step_tokens=max_step_tokens,
        seconds=1,
        on_progress=on_progress,
    )


async def test_a_run_is_split_at_the_delimiter() -> None:
    model = FakeModel(said("one", " .\n", "\ntwo .", "\n\n", "three .", "\n</think>"))
    writer = StepWriter(model, ReasoningSettings())
    steps = [written.step async for written in running_on(writer, 99)]
    assert [step.text for step in steps] == ["one .", "two .", "three ."]
    assert [step.closes for step in steps] == [False, False, True]
    assert sum(step.tokens for step in steps) == 6


async def test_a_delimiter_may_begin_with_a_line_break_and_come_in_pieces() -> None:
    model = FakeModel(said("\n", "## one", "\n", "## two", "</think>"))
    writer = StepWriter(model, ReasoningSettings(delimiter="\n## "))
    assert [written.step.text async for written in running_on(writer, 99)] == ["one", "two"]


async def test_a_run_that_is_cut_ends_with_a_truncated_step() -> None:
    model = FakeModel(said("one .\n\n", "two", reason="length"))
    writer = StepWriter(model, ReasoningSettings())
    steps = [written.step async for written in running_on(writer, 2)]
    assert [(step.text, step.truncated) for step in steps] == [("one .", False), ("two", True)]


@pytest.mark.parametrize("end", [" long", " long\n\n"])
async def test_a_step_of_a_run_that_is_too_long_is_written_as_if_alone_and_so_is_the_next(end: str) -> None:
    alone = said("two", " is", " too", reason="length")
    rest = said("long .", "\n\n")
    model = FakeModel(said("one .", "\n\n", "two", " is", " too", end, "\n\nthree"), alone, rest)
    progress: list[int] = []
    steps = [
        written.step
        async for written in running_on(StepWriter(model, ReasoningSettings()), 12, 3, progress.append)
    ]
    assert [(step.text, step.truncated) for step in steps] == [
        ("one .", False),
        ("two is too", True),
        ("long .", False),
    ]
    assert model.prompts == ["p", "pone .\n\n", "pone .\n\ntwo is too\n\n"]
    assert model.parameters["max_tokens"] == 3
    assert progress == list(range(1, 12))


async def test_steps_behind_one_that_is_too_long_come_one_by_one_as_far_as_the_tokens_go() -> None:
    model = FakeModel(said("one", " is", " long"), said("one", reason="length"))
    steps = [written.step async for written in running_on(StepWriter(model, ReasoningSettings()), 5, 1)]
    # Two tokens of the run, and three.
    assert [step.text for step in steps] == ["one"] * 3
    assert model.seeds == [7, 8, 9, 10]


async def test_a_run_whose_tokens_a_blank_has_used_up_writes_a_step_all_the_same() -> None:
    model = FakeModel(said("\n\n", reason="length"), said("\n\n"), said("one", reason="length"))
    steps = [written.step async for written in running_on(StepWriter(model, ReasoningSettings()), 1, 1)]
    assert [(step.text, step.tokens) for step in steps] == [("one", 2)]


async def test_a_step_that_is_as_long_as_it_may_be_is_not_too_long() -> None:
    model = FakeModel(said("one .", "\n\n", "two .", "\n</think>"))
    steps = [written.step async for written in running_on(StepWriter(model, ReasoningSettings()), 9, 2)]
    assert [(step.text, step.truncated) for step in steps] == [("one .", False), ("two .", False)]
    assert len(model.prompts) == 1


def test_seeds_matter_only_where_something_is_drawn() -> None:
    assert Sampling(0.0, 0.9, 7).parameters() == {"temperature": 0.0}
    assert Sampling(0.5, 0.9, 7).parameters() == {"temperature": 0.5, "top_p": 0.9, "seed": 7}
