"""One cluster of real parts for all tests that do not break it."""

from collections.abc import AsyncIterator

import pytest_asyncio

from dreamr.client import AsyncClient
from dreamr.cluster.cluster import Cluster
from tests.otlp_receiver import Receiver
from tests.unit.fake_triton import serving

SERVICES = ("draft", "target", "verifier", "gateway")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def collector() -> AsyncIterator[tuple[Receiver, str]]:
    """What gets the cluster's traces, and where it is."""
    receiver = Receiver()
    async with serving(receiver.add_to) as address:
        yield receiver, f"http://{address}"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster(collector: tuple[Receiver, str]) -> AsyncIterator[Cluster]:
    settings = {f"DREAMR_{role.upper()}_OTLP": collector[1] for role in SERVICES}
    async with Cluster(http="127.0.0.1:0", settings=settings) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def client(cluster: Cluster) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(cluster.address, timeout=60) as connected:
        yield connected
