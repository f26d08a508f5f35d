"""What the processes tell Prometheus is what docs/metrics.md says, and what the dashboard asks for."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import grpc
import prometheus_client
import pytest
from prometheus_client.metrics import MetricWrapperBase

import services.common.metrics
import services.gateway.metrics
from dreamr.v1 import gateway_pb2
from models.backends.transformers import metrics as engine_metrics
from services.gateway.fpsr import Machine
from services.gateway.memory_store import MemoryStore
from services.gateway.metrics import position
from services.gateway.store import StoreError
from tests.unit.documented import Documented, documented, of_others
from tests.unit.fake_services import FakeServices, busy, idle
from tests.unit.running_gateway import gateway, request

DASHBOARD = json.loads(Path("compose/observability/dreamr.json").read_text("utf-8"))
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
_WORDS = {
    "sum",
    "by",
    "rate",
    "increase",
    "max",
    "min",
    "histogram_quantile",
    "or",
    "clamp_min",
    "avg",
    "time",
    "le",
}


def registered() -> set[Documented]:
    """As the modules define them, by what they are when scraped."""
    found = set()
    for module in (services.common.metrics, services.gateway.metrics):
        for metric in vars(module).values():
            if isinstance(metric, MetricWrapperBase):
                (family,) = metric.describe()
                end = "_total" if family.type == "counter" else ""
                found.add(Documented(family.name + end, family.type, tuple(metric._labelnames)))
    return found


def engine() -> set[Documented]:
    kinds = ((engine_metrics._GAUGES, "gauge"), (engine_metrics._COUNTERS, "counter"))
    return {
        Documented(f"transformers:{name}", kind, ("model", "version"))
        for names, kind in kinds
        for name in names
    }


def named(query: str) -> set[str]:
    """The metrics that a query of PromQL names."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|on|ignoring|without)\s*\([^)]*\)", "", query)
    return set(re.findall(r"[a-z_][\w:]*", bare)) - _WORDS


def test_the_page_tells_of_each_metric_and_of_no_other() -> None:
    assert registered() | engine() == documented()


def test_nothing_of_ours_is_registered_elsewhere() -> None:
    found = {
        family.name for family in prometheus_client.REGISTRY.collect() if family.name.startswith("dreamr")
    }
    assert found == {one.name.removesuffix("_total") for one in registered()}


@pytest.mark.parametrize("query", QUERIES)
def test_the_dashboard_asks_for_what_there_is(query: str) -> None:
    known = set[str]().union(*(one.samples for one in documented()), of_others())
    assert named(query)
    assert named(query) <= known


def test_the_dashboard_shows_every_metric() -> None:
    asked = set[str]().union(*map(named, QUERIES))
    assert [one.name for one in documented() if not one.samples & asked] == []
    assert of_others() <= asked


def test_panels_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)


def test_positions_are_few_labels() -> None:
    assert [position(index) for index in (0, 7, 8, 15, 16, 63, 64, 255)] == [
        *("0", "7", "8-15", "8-15", "16-31", "32-63", "64-", "64-")
    ]


def value(name: str, **labels: str) -> float:
    return prometheus_client.REGISTRY.get_sample_value(name, labels) or 0.0


async def test_a_session_moves_what_tells_of_speculation() -> None:
    names: tuple[tuple[str, dict[str, str]], ...] = (
        ("dreamr_verdict_seconds_count", {}),
        ("dreamr_position_verdicts_total", {"position": "2", "outcome": "accept"}),
        ("dreamr_speculation_total", {"level": "full"}),
        ("dreamr_tokens_total", {"model": "target", "fate": "wasted"}),
        ("dreamr_cancelled_tokens_total", {"model": "target"}),
        ("dreamr_cancelled_calls_total", {"part": "target"}),
        ("dreamr_cancel_seconds_count", {"part": "rival"}),
    )
    before = [value(name, **labels) for name, labels in names]
    # Its rivals write a token and get no further.
    async with gateway(FakeServices(delay=0.1, target_delay=30)) as running:
        told = await running.reason()
        acceptance = value("dreamr_governor_acceptance")
    moved = [value(name, **labels) - then for (name, labels), then in zip(names, before, strict=True)]
    target = told[-1].finished.totals.target
    # The answer's one token is committed, and a rival that is stopped has written one at most.
    assert moved[:3] == [3, 1, 3]
    assert moved[3] == moved[4] == target.wasted_tokens > 0
    assert moved[5] == moved[6] == target.cancelled_calls
    assert acceptance == 1


async def test_what_a_client_that_left_has_cost_is_counted() -> None:
    def cancelled() -> tuple[float, float]:
        tokens = value("dreamr_cancelled_tokens_total", model="target")
        return value("dreamr_cancelled_calls_total", part="target"), tokens

    calls, tokens = cancelled()
    parts = busy()
    async with gateway(parts) as running, idle(parts):
        call = running.stub.Reason(request(gateway_pb2.ReasonOptions(policy="target")))
        await call.read()
        (driver,) = running.service._reasoning._drivers.values()
        async with asyncio.timeout(5):
            while not any(work.tokens for work in driver._works.values()):  # noqa: ASYNC110 - over a socket
                await asyncio.sleep(0.01)
        call.cancel()
    assert cancelled() == (calls + 1, tokens + 1)


async def test_a_store_that_is_away_is_seen() -> None:
    class Away(MemoryStore):
        async def append(self, *_: Any) -> Any:
            raise StoreError("away")

    before = value("dreamr_store_failures_total")
    parts = busy()
    parts.target_delay = 0.01
    async with gateway(parts, store=Away(ttl_seconds=60), lease_seconds=0.3) as running:
        call = running.stub.Reason(request())
        seen = 0.0
        async for _ in call:
            seen = max(seen, value("dreamr_away_sessions"))
            if seen:
                break
        assert seen == 1
        call.cancel()
    assert value("dreamr_away_sessions") == 0
    assert value("dreamr_store_failures_total") > before


def fates() -> dict[str, float]:
    names = ("finished", "failed", "cancelled", "handed_over")
    return {name: value("dreamr_sessions_total", policy="fpsr", status=name) for name in names}


def moved(before: dict[str, float]) -> dict[str, float]:
    return {name: now - before[name] for name, now in fates().items() if now != before[name]}


async def test_a_session_that_is_cancelled_counts_as_that() -> None:
    before = fates()
    async with gateway(busy()) as running:
        call = running.stub.Reason(request())
        session_id = (await anext(aiter(call))).started.session_id
        await running.stub.Cancel(gateway_pb2.CancelRequest(session_id=session_id))
        assert await call.code() is grpc.StatusCode.CANCELLED
    assert moved(before) == {"cancelled": 1}


async def test_a_session_that_another_gateway_goes_on_with_is_no_failure() -> None:
    before = fates()
    parts = busy()
    parts.target_delay = 0.01
    # One that another gateway shares: only then there is somebody to hand over to.
    store = MemoryStore(ttl_seconds=60)
    store.durable = True
    async with gateway(parts, store=store) as running:
        call = running.stub.Reason(request())
        responses = aiter(call)
        await anext(responses)
        running.service.drain()
        with pytest.raises(grpc.aio.AioRpcError, match="shutting down"):
            _ = [response async for response in responses]
    assert moved(before) == {"handed_over": 1}


async def test_a_session_that_breaks_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fates()
    monkeypatch.setattr(Machine, "start", lambda _: 1 / 0)
    async with gateway() as running:
        assert await running.stub.Reason(request()).code() is grpc.StatusCode.INTERNAL
    assert moved(before) == {"failed": 1}
