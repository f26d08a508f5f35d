"""One cluster of real parts for all tests that do not break it."""

from collections.abc import AsyncIterator

import pytest_asyncio

from dreamr.client import AsyncClient
from dreamr.cluster.cluster import Cluster


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster(http="127.0.0.1:0") as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def client(cluster: Cluster) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(cluster.address, timeout=60) as connected:
        yield connected
