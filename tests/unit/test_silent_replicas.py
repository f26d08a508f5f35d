"""A replica that falls silent, as one that is frozen or cut off, costs a session seconds and no step."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from bench.chaos.proxy import Proxy
from dreamr.v1 import gateway_pb2
from tests.unit.fake_services import STEPS, FakeServices
from tests.unit.running_gateway import commits, gateway, request
from tests.unit.test_replica_pool import until
from tests.unit.worker import worker


class Halting(FakeServices):
    """Writes nothing behind its first step until `go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """See FakeServices."""
        async for response in super().Generate(request, context):
            yield response
            if response.HasField("written"):
                await self.go.wait()


async def test_a_target_that_falls_silent_is_left_in_the_middle_of_its_reasoning() -> None:
    options = gateway_pb2.ReasonOptions(policy="target")
    async with AsyncExitStack() as stack:
        targets = [await stack.enter_async_context(worker(parts=Halting())) for _ in range(2)]
        proxies = {
            proxy.address: (proxy, one)
            for one in targets
            for proxy in [await stack.enter_async_context(Proxy(one.address))]
        }
        running = await stack.enter_async_context(gateway(addresses={"target": ",".join(proxies)}))
        replicas = running.service._reasoning._cluster.target
        await until(lambda: len(replicas.ready) == 2)
        told = []
        swallowing: asyncio.Task[None] | None = None
        async for response in running.stub.Reason(request(options), timeout=60):
            told.append(response)
            if commits(told) and swallowing is None:
                asked = next(replica for replica in replicas.order("") if replica.calls)
                proxy, silent = proxies[asked.address]
                (other,) = [one for one in targets if one is not silent]
                other.parts.go.set()
                swallowing = asyncio.create_task(proxy.swallow(3600))
        assert swallowing
        assert [commit.step.text for commit in commits(told)] == list(STEPS)
        # It went on behind what there was.
        assert [list(one.context.steps) for one in other.parts.requests["Generate"]] == [[STEPS[0]]]
        swallowing.cancel()
        await asyncio.wait([swallowing])
        # It is found again by itself.
        await until(lambda: len(replicas.ready) == 2)
