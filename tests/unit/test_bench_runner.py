"""How many questions a level asks, and what is told of the time in which every place is taken."""

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest

from bench.meter import Meter, Reading
from bench.questions import Question, held_out
from bench.runner import asked_at, measure
from bench.variant import Variant
from dreamr.client import AsyncClient
from dreamr.events import Event
from tests.unit.test_bench_bound import session

SESSIONS = {policy: session(policy, seed=1) for policy in ("target", "fpsr")}


@pytest.mark.parametrize(
    ("concurrency", "count", "asked"), [(1, 7, 7), (4, 7, 16), (4, 16, 16), (4, 17, 32), (64, 8, 256)]
)
def test_a_level_asks_whole_rounds(concurrency: int, count: int, asked: int) -> None:
    assert asked_at(concurrency, count) == asked


class FakeCluster:
    """Client and meter in one: a question takes as long as its text says, and gives ten tokens at its end."""

    def __init__(self) -> None:
        self.under_way = 0
        self.most = 0
        self.policies: list[str] = []
        self._tokens = 0

    async def reason(self, question: str, *, policy: str, **options: object) -> AsyncIterator[Event]:
        self.policies.append(policy)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(float(question))
        self.under_way -= 1
        self._tokens += 10
        for event in SESSIONS[policy]:
            yield event

    async def now(self) -> Reading:
        return Reading(0.0, {"draft": self._tokens, "target": 0})

    read = now


def questions(*seconds: float) -> list[Question]:
    (image,) = (question.image for question in held_out(1, seed=1))
    return [Question((image,), str(one), "") for one in seconds]


@pytest.mark.parametrize(("concurrency", "full"), [(2, 70), (1, 80)])
async def test_drafting_is_told_of_the_time_in_which_every_place_is_taken(
    concurrency: int, full: int
) -> None:
    cluster = FakeCluster()
    measured = await measure(
        cast(AsyncClient, cluster),
        questions(*[0.01] * 7, 0.5),
        ["fpsr"],
        seed=1,
        concurrency=concurrency,
        meter=cast(Meter, cluster),
        on_answer=lambda: None,
    )
    assert cluster.most == concurrency
    found = measured["fpsr"]
    assert found.full_drafted == full
    # Of two places one is empty while the last question takes its half second.
    assert (found.full_seconds < found.wall_seconds / 2) == (concurrency == 2)


async def test_a_variant_is_asked_for_by_its_rule_alpha_draft_and_sizes() -> None:
    asked: list[dict[str, object]] = []

    class Noting(FakeCluster):
        async def reason(self, question: str, *, policy: str, **options: object) -> AsyncIterator[Event]:
            asked.append({name: options.get(name) for name in ("rule", "alpha", "draft_version", "width")})
            for event in SESSIONS[policy]:
                yield event

    variants = ["fpsr", "fpsr:0.7", "fpsr:cascade:0.5", "fpsr:0.7@2+width=3"]
    measured = await measure(
        cast(AsyncClient, Noting()),
        questions(0.0),
        variants,
        seed=1,
        concurrency=1,
        meter=None,
        on_answer=lambda: None,
    )
    assert list(measured) == variants
    wanted: list[dict[str, object]] = [
        {"rule": None, "alpha": None, "draft_version": None, "width": None},
        {"rule": None, "alpha": 0.7, "draft_version": None, "width": None},
        {"rule": "cascade", "alpha": 0.5, "draft_version": None, "width": None},
        {"rule": None, "alpha": 0.7, "draft_version": 2, "width": 3},
    ]
    assert sorted(asked, key=str) == sorted(wanted, key=str)


@pytest.mark.parametrize(
    "name",
    [
        *("", ":0.7", "fpsr:1.5", "fpsr:nan", "fpsr:magic", "fpsr:0.7:tbvm", "a:tbvm:1:2"),
        *("@2", "fpsr@", "fpsr@0", "fpsr@-1", "fpsr@two", "fpsr@1@2", "fpsr@2:0.7"),
        *("fpsr+", "fpsr+width", "fpsr+width=", "fpsr+width=x", "fpsr+rivals=2", "+width=2"),
    ],
)
def test_a_variant_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"must be (POLICY|SIZE)"):
        Variant.parse(name)


@pytest.mark.parametrize(
    "name",
    ["target", "fpsr:0.95", "fpsr:confidence", "fpsr:tbvm:0.5", "fpsr@2", "fpsr:tbvm:0.5@2+window=2+width=3"],
)
def test_a_variant_is_named_as_it_is_read(name: str) -> None:
    assert Variant.parse(name).name == name


async def test_policies_take_turns_round_by_round() -> None:
    cluster = FakeCluster()
    await measure(
        cast(AsyncClient, cluster),
        questions(*[0.0] * 16),
        ["target", "fpsr"],
        seed=1,
        concurrency=2,
        meter=None,
        on_answer=lambda: None,
    )
    rounds = [cluster.policies[start : start + 8] for start in range(0, 32, 8)]
    assert all(len(set(asked)) == 1 for asked in rounds)
    assert {rounds[0][0], rounds[1][0]} == {rounds[2][0], rounds[3][0]} == {"target", "fpsr"}
