"""Whole steps out of a generation, whatever its pieces look like. The model here is a fake."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.common.pair import ReasoningSettings
from services.common.steps import StepWriter
from services.common.triton import Chunk, Sampling, TritonModel


class FakeModel(TritonModel):
    """Says what it is told to."""

    def __init__(self, chunks: list[Chunk]) -> None:
        self._said = chunks
        self.parameters: dict[str, Any] = {}

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

        async def pieces() -> AsyncIterator[Chunk]:
            for chunk in self._said:
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


async def test_a_run_is_split_at_the_delimiter() -> None:
    model = FakeModel(said("one", " .\n", "\ntwo .", "\n\n", "three .", "\n</think>"))
    writer = StepWriter(model, ReasoningSettings())
    steps = [written.step async for written in writer.run_on("p", [], Sampling(), max_tokens=99, seconds=1)]
    assert [step.text for step in steps] == ["one .", "two .", "three ."]
    assert [step.closes for step in steps] == [False, False, True]
    assert sum(step.tokens for step in steps) == 6


async def test_a_run_that_is_cut_ends_with_a_truncated_step() -> None:
    model = FakeModel(said("one .\n\n", "two", reason="length"))
    writer = StepWriter(model, ReasoningSettings())
    steps = [written.step async for written in writer.run_on("p", [], Sampling(), max_tokens=2, seconds=1)]
    assert [(step.text, step.truncated) for step in steps] == [("one .", False), ("two", True)]


def test_seeds_matter_only_where_something_is_drawn() -> None:
    assert Sampling(0.0, 0.9, 7).parameters() == {"temperature": 0.0}
    assert Sampling(0.5, 0.9, 7).parameters() == {"temperature": 0.5, "top_p": 0.9, "seed": 7}
