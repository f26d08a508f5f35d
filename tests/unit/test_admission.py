"""Places for sessions: bounds, fairness, and refusals that say when to come again."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamr.keys import Limits
from services.common.errors import LateError, OverloadedError
from services.gateway.admission import Admission
from services.gateway.callers import Caller

ONE, TWO = Caller("one"), Caller("two")


class Sessions:
    """Sessions that hold their place until they are told to end."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.began: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Event] = {}

    async def ask(self, name: str, caller: Caller, seconds: float = 30.0) -> asyncio.Task[None]:
        self._ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._run(name, caller, seconds))
        await settled()
        return self.tasks[name]

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await settled()

    async def _run(self, name: str, caller: Caller, seconds: float) -> None:
        async with self.admission.place(caller, seconds):
            self.began.append(name)
            await self._ends[name].wait()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_first_come_first_served_within_a_caller() -> None:
    sessions = Sessions(Admission(1, 8))
    for name in ("a", "b", "c"):
        await sessions.ask(name, ONE)
    assert sessions.admission.waiting == 2
    await sessions.end("a")
    await sessions.end("b")
    await sessions.end("c")
    assert sessions.began == ["a", "b", "c"]
    assert sessions.admission.waiting == 0


async def test_a_free_place_goes_to_who_has_fewest() -> None:
    sessions = Sessions(Admission(2, 8))
    for name in ("a1", "a2", "a3", "a4"):
        await sessions.ask(name, ONE)
    await sessions.ask("b1", TWO)
    await sessions.end("a1")
    assert sessions.began == ["a1", "a2", "b1"], "two came last, and had nothing"
    await sessions.end("a2")
    assert sessions.began[-1] == "a3"


async def test_a_caller_at_its_own_limit_leaves_places_to_others() -> None:
    sessions, limited = Sessions(Admission(4, 8)), Caller("one", Limits(max_sessions=1))
    await sessions.ask("a1", limited)
    await sessions.ask("a2", limited)
    await sessions.ask("b1", TWO)
    assert sessions.began == ["a1", "b1"]
    await sessions.end("b1")
    assert sessions.began == ["a1", "b1"]
    await sessions.end("a1")
    assert sessions.began == ["a1", "b1", "a2"]


async def test_the_longest_queue_makes_room() -> None:
    sessions = Sessions(Admission(1, 3))
    for name in ("a0", "a1", "a2", "a3"):
        await sessions.ask(name, ONE)
    await sessions.ask("b1", TWO)
    with pytest.raises(OverloadedError, match="1 that run and 3 that wait") as caught:
        await sessions.tasks["a3"]
    assert caught.value.retry_after == pytest.approx(1.0)
    with pytest.raises(OverloadedError):
        await (await sessions.ask("a4", ONE))
    for name in ("a0", "b1", "a1"):
        await sessions.end(name)
    assert sessions.began == ["a0", "b1", "a1", "a2"], "in turns"


async def test_who_gives_up_leaves_the_queue() -> None:
    sessions = Sessions(Admission(1, 8))
    await sessions.ask("a", ONE)
    late = await sessions.ask("b", ONE, seconds=0.01)
    gone = await sessions.ask("c", ONE)
    with pytest.raises(LateError):
        await late
    gone.cancel()
    await settled()
    assert sessions.admission.waiting == 0
    await sessions.ask("d", ONE)
    await sessions.end("a")
    assert sessions.began == ["a", "d"]


async def test_a_place_given_to_one_that_leaves_at_that_moment_is_passed_on() -> None:
    sessions = Sessions(Admission(1, 8))
    await sessions.ask("a", ONE)
    gone = await sessions.ask("b", ONE)
    await sessions.ask("c", ONE)
    sessions._ends["a"].set()
    await asyncio.sleep(0)  # the place is b's now, and b has not run yet
    gone.cancel()
    await settled()
    assert sessions.began == ["a", "c"]


async def test_who_would_wait_in_vain_is_told_at_once() -> None:
    admission = Admission(1, 64)
    admission._seconds.add(4.0)
    admission._seconds.count = 8
    async with admission.place(ONE, 30):
        with pytest.raises(OverloadedError, match=r"4\.0 s to wait") as caught:
            async with admission.place(ONE, 7.9):
                pass
        assert caught.value.retry_after == pytest.approx(4.0)
        waiting = asyncio.create_task(_hold(admission, TWO, 8.1))
        await settled()
        assert admission.waiting == 1
        waiting.cancel()
        await asyncio.wait([waiting])


async def _hold(admission: Admission, caller: Caller, seconds: float) -> None:
    async with admission.place(caller, seconds):
        pass


Action = st.tuples(st.sampled_from(["ask", "end", "leave"]), st.integers(0, 3), st.integers(0, 30))


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 3), st.integers(0, 4), st.lists(Action, max_size=60))
def test_bounds_hold_and_no_place_is_lost(
    places: int, room: int, actions: list[tuple[str, int, int]]
) -> None:
    callers = [
        Caller(name, Limits(max_sessions=most)) for name, most in zip("wxyz", (None, 1, 2, 3), strict=True)
    ]

    async def run() -> None:
        admission = Admission(places, room)
        names: list[str] = []
        sessions = Sessions(admission)
        for step, (action, caller, which) in enumerate(actions):
            alive = [name for name in names if not sessions.tasks[name].done()]
            if action == "ask":
                names.append(f"{step}")
                await sessions.ask(names[-1], callers[caller])
            elif alive and action == "end":
                await sessions.end(alive[which % len(alive)])
            elif alive:
                sessions.tasks[alive[which % len(alive)]].cancel()
                await settled()
            running = admission._running
            assert running.total() <= places
            assert admission.waiting <= room
            assert all(running[one.name] <= (one.limits.max_sessions or places) for one in callers)
            for one in callers:
                # Nobody waits beside a place that could be theirs.
                assert not (admission._waiting.get(one.name) and admission._may_run(one))
        for name in names:
            await sessions.end(name)
        done = await asyncio.gather(*sessions.tasks.values(), return_exceptions=True)
        assert all(one is None or isinstance(one, OverloadedError | asyncio.CancelledError) for one in done)
        assert not admission._running
        async with AsyncExitStack() as stack:
            for _ in range(places):
                await stack.enter_async_context(admission.place(Caller("fresh"), 1))

    asyncio.run(run())
