"""A session appends under its fence, and goes on without its store."""

from collections.abc import AsyncIterator

import pytest

from dreamr.v1 import gateway_pb2
from services.gateway.memory_store import MemoryStore
from services.gateway.sessions import Session
from services.gateway.store import Status

OPTIONS = gateway_pb2.ReasonOptions(policy="target")


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    made = MemoryStore(ttl_seconds=60)
    made.durable = True
    yield made
    await made.close()


async def test_the_request_is_stored_once_without_its_images(store: MemoryStore) -> None:
    session = await Session.open(store, "q", OPTIONS, [b"image"])
    stored = await store.load(session.id)
    assert stored is not None
    bare = gateway_pb2.ReasonRequest.FromString(stored.request)
    assert (bare.question, bare.options.policy, list(bare.images)) == ("q", "target", [])
    assert stored.images == (b"image",)


async def test_a_session_taken_over_writes_no_more(store: MemoryStore) -> None:
    session = await Session.open(store, "q", OPTIONS, [b"image"])
    await session.append(gateway_pb2.Commit(index=0))
    await store.take_over(session.id)
    await session.append(gateway_pb2.Commit(index=1))
    assert not session.durable
    assert (session.committed, session.stored) == (2, 1)
    await session.end(Status.FINISHED)
    stored = await store.load(session.id)
    assert stored is not None
    assert (len(stored.steps), stored.status) == (1, Status.RUNNING)
