"""Sessions in the background are worked on to their end, whoever has gone."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from dreamr.keys import Limits
from dreamr.v1 import gateway_pb2
from services.common.errors import OverloadedError
from services.common.metrics import ACTIVE_CALLS
from services.gateway.admission import Admission
from services.gateway.adoption import Adoption
from services.gateway.callers import Caller
from services.gateway.memory_store import MemoryStore
from services.gateway.plan import Plan
from services.gateway.store import Status, StoredSession, StoreError
from tests.unit.fake_services import STEPS, FakeServices, idle
from tests.unit.running_gateway import PAIR, Gateway, gateway, request

Options = gateway_pb2.ReasonOptions
Code = grpc.StatusCode
MANY = tuple(f"step {number} ." for number in range(8))
ASKED = request(Options(policy="target"), background=True)


class Shared(MemoryStore):
    """Stands for a store that outlives its gateways."""

    durable = True

    def __init__(self) -> None:
        super().__init__(ttl_seconds=60)

    async def close(self) -> None:
        """Not with a gateway."""

    async def orphan(self, name: str, request: bytes | None = None) -> None:
        """Puts a session there whose gateway has gone."""
        asked = gateway_pb2.ReasonRequest(
            question=ASKED.question, options=Plan.of(ASKED, PAIR).options(), background=True
        )
        kept = asked.SerializeToString() if request is None else request
        await self.create(name, kept, [image.data for image in ASKED.images], 0, "gone")
        await self.register(name, 0)


@pytest.fixture
async def store() -> AsyncIterator[Shared]:
    made = Shared()
    yield made
    await MemoryStore.close(made)


async def stored(store: MemoryStore, name: str) -> StoredSession:
    found = await store.load(name)
    assert found
    return found


async def ended(store: MemoryStore, name: str, status: Status = Status.FINISHED) -> StoredSession:
    """The session once it has ended."""
    async with asyncio.timeout(20):
        while (found := await stored(store, name)).status is Status.RUNNING:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert found.status is status
    return found


async def held(store: MemoryStore, name: str, steps: int = 0) -> StoredSession:
    """The session once somebody works on it, with so many steps."""
    async with asyncio.timeout(20):
        while not (found := await stored(store, name)).held or len(found.steps) < steps:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return found


def texts(found: StoredSession) -> list[str]:
    return [gateway_pb2.Commit.FromString(step).step.text for step in found.steps]


@asynccontextmanager
async def left(running: Gateway, timeout: float = 30) -> AsyncIterator[str]:
    """A session whose client has had two commits, and goes behind the block."""
    call: Any = running.stub.Reason(ASKED, timeout=timeout)
    told = [await call.read() for _ in range(3)]
    yield told[0].started.session_id
    call.cancel()


async def test_one_goes_on_when_its_client_leaves(store: Shared) -> None:
    parts = FakeServices(steps=MANY, target_delay=0.02)
    async with gateway(parts, store=store, lease_seconds=30) as running:
        async with left(running) as session_id:
            seen = texts(await stored(store, session_id))
        found = await ended(store, session_id)
        assert texts(found) == list(MANY)
        assert seen == list(MANY[: len(seen)])
        assert found.fence == 2
        assert gateway_pb2.Finished.FromString(found.outcome).answer == "42"


async def test_one_goes_on_when_its_client_has_no_more_time(store: Shared) -> None:
    parts = FakeServices(steps=MANY, target_delay=0.1)
    async with gateway(parts, store=store, lease_seconds=30) as running:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.reason(ASKED, timeout=0.4)
        assert caught.value.code() is Code.DEADLINE_EXCEEDED
        (session_id,) = store._sessions
        assert texts(await ended(store, session_id)) == list(MANY)


async def test_others_stay_where_they_are(store: Shared) -> None:
    parts = FakeServices(steps=MANY, target_delay=0.02)
    async with gateway(parts, store=store, lease_seconds=0.2) as running:
        async with idle(parts):
            call = running.stub.Reason(request(Options(policy="target")), timeout=30)
            started = await call.read()
            assert isinstance(started, gateway_pb2.ReasonResponse)
            call.cancel()
        await store.orphan("orphan")
        await ended(store, "orphan")
        found = await stored(store, started.started.session_id)
        assert (found.status, found.fence) == (Status.RUNNING, 1)


async def test_a_gateway_that_starts_takes_up_what_another_has_left(store: Shared) -> None:
    names = [f"{number}" for number in range(20)]
    for name in names:
        await store.orphan(name)
    async with gateway(store=store, lease_seconds=30):
        for name in names:
            assert texts(await ended(store, name)) == list(STEPS)


async def test_a_gateway_that_hangs_loses_one_to_another(store: Shared) -> None:
    parts = FakeServices(steps=MANY, target_delay=0.05)
    async with (
        gateway(parts, store=store, lease_seconds=30) as one,
        gateway(parts, store=store, lease_seconds=0.2),
    ):
        async with left(one) as session_id:
            # As if it had not been able to renew its lease.
            store._leases[session_id] = 0.0
            await store.register(session_id, 0)
            found = await ended(store, session_id)
        assert texts(found) == list(MANY)
        assert found.fence == 2


async def test_who_follows_one_is_told(store: Shared) -> None:
    parts = FakeServices(steps=MANY, target_delay=0.05)
    await store.orphan("orphan")
    async with gateway(parts, store=store) as running:
        await held(store, "orphan")
        asked = gateway_pb2.ResumeRequest(session_id="orphan")
        told = [message.happened async for message in running.stub.Resume(asked, timeout=20)]
        assert [one.commit.step.text for one in told if one.HasField("commit")] == list(MANY)
        assert told[-1].finished.answer == "42"
    assert len(parts.requests["Generate"]) == 1


async def test_a_gateway_that_stops_hands_them_over(store: Shared) -> None:
    parts = FakeServices(steps=MANY, target_delay=0.1)
    await store.orphan("orphan")
    async with gateway(parts, store=store, lease_seconds=30):
        seen = texts(await held(store, "orphan", steps=2))
    found = await stored(store, "orphan")
    assert (found.status, found.held) == (Status.RUNNING, False)
    await store.register("orphan", 0)
    async with gateway(FakeServices(steps=MANY), store=store, lease_seconds=30):
        found = await ended(store, "orphan")
    assert texts(found) == list(MANY)
    assert texts(found)[: len(seen)] == seen


async def test_clients_come_first(store: Shared) -> None:
    parts = FakeServices(target_delay=60)
    asked, calls = request(Options(policy="target")), ACTIVE_CALLS.labels("Reason")
    async with gateway(parts, store=store, max_sessions=1, lease_seconds=0.05) as running:
        before = calls._value.get()
        first: Any = running.stub.Reason(asked)
        await first.read()
        await store.orphan("orphan")
        clients = [asyncio.create_task(running.reason(asked, timeout=60)) for _ in range(3)]
        async with asyncio.timeout(20):
            while calls._value.get() < before + 4:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        parts.target_delay = 0.01
        first.cancel()
        told = await asyncio.gather(*clients)
        await ended(store, "orphan")
    order = [asked.context.session_id for asked in parts.requests["Generate"]]
    assert set(order[1:4]) == {one[0].started.session_id for one in told}
    assert order[4:] == ["orphan"]


async def test_a_place_is_tried_only_where_nobody_waits_for_it() -> None:
    admission = Admission(max_sessions=1, max_waiting=1)
    async with admission.try_place(Caller()) as free:
        assert free
        async with admission.try_place(Caller()) as second:
            assert not second

        async def client() -> None:
            async with admission.place(Caller(), 5):
                pass

        waiting = asyncio.create_task(client())
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await client()
    async with admission.try_place(Caller()) as free:
        assert not free, "the client has been first"
    await waiting
    async with admission.try_place(Caller()) as free:
        assert free


async def test_one_that_fails_is_tried_again_later(store: Shared) -> None:
    parts = FakeServices(failures={"Answer": [Code.UNAVAILABLE] * 1000})
    await store.orphan("orphan")
    async with gateway(parts, store=store, lease_seconds=0.1, max_adoptions=50):
        async with asyncio.timeout(20):
            while (await stored(store, "orphan")).fence < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        parts.failures.clear()
        assert texts(await ended(store, "orphan")) == list(STEPS)
    assert [len(asked.context.steps) for asked in parts.requests["Generate"]] == [0], (
        "no step was written twice"
    )


async def test_one_that_every_gateway_fails_with_is_given_up(store: Shared) -> None:
    await store.orphan("orphan")
    for fence in range(2, 5):
        assert await store.take_over("orphan", 0, "other") == fence
    parts = FakeServices()
    async with gateway(parts, store=store, max_adoptions=4) as running:
        await ended(store, "orphan", Status.FAILED)
        with pytest.raises(grpc.aio.AioRpcError, match="too often"):
            async for _ in running.stub.Resume(gateway_pb2.ResumeRequest(session_id="orphan"), timeout=20):
                pass
    assert not parts.calls


async def test_one_that_cannot_be_read_keeps_no_other_from_it(store: Shared) -> None:
    await store.orphan("broken", b"\xff")
    await store.orphan("unanswerable", gateway_pb2.ReasonRequest(background=True).SerializeToString())
    await store.orphan("orphan")
    async with gateway(store=store, lease_seconds=30):
        await ended(store, "orphan")
        assert (await stored(store, "broken")).fence == 2
        found = await stored(store, "unanswerable")
        assert (found.fence, found.held) == (2, False)


async def test_a_store_that_is_away_is_asked_again(store: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asyncio.Event()

    async def away(limit: int) -> list[str]:
        asked.set()
        raise StoreError("away")

    await store.orphan("orphan")
    with monkeypatch.context() as patch:
        patch.setattr(store, "orphans", away)
        async with gateway(store=store, lease_seconds=0.1):
            await asked.wait()
            patch.undo()
            await ended(store, "orphan")


async def test_adopted_ones_take_their_owners_places(store: Shared) -> None:
    limited, other = Caller("limited", Limits(max_sessions=1)), Caller("other")
    for name in ("a", "b", "c", "other"):
        await store.orphan(name)
    admission, done, most = Admission(max_sessions=4, max_waiting=4), list[str](), Counter[str]()
    working = Counter[str]()

    def owner(name: str) -> Caller:
        return other if name == "other" else limited

    async def adopt(name: str) -> None:
        caller = owner(name).name
        working[caller] += 1
        most[caller] = max(most[caller], working[caller])
        await asyncio.sleep(0.05)
        working[caller] -= 1
        await store.cancel(name)
        done.append(name)

    adoption = asyncio.create_task(Adoption(store, admission, owner, adopt, 0.1).run())
    async with asyncio.timeout(20):
        while len(done) < 4:  # noqa: ASYNC110 - until all are
            await asyncio.sleep(0.01)
    adoption.cancel()
    await asyncio.wait([adoption])
    assert most == {"limited": 1, "other": 1}
    assert done.index("other") < 2
