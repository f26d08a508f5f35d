"""What a real session leaves behind in every process: metrics that move, and one trace."""

import asyncio
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

import dreamr
from dreamr.cluster.cluster import Cluster
from services.common.tracing import CANCELLED
from tests.otlp_receiver import Received, Receiver
from tests.unit.documented import documented
from training.task import held_out

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session")]

EXAMPLES = list(held_out(8, seed=23))
SERVICES = {"DraftService", "TargetService", "VerifierService", "ReasoningService"}
# What stands still in a session that goes well, on a cluster without keys and with one replica of each part.
STILL = {
    *("dreamr_caller_tokens_total", "dreamr_hedges_total", "dreamr_replica_ejections_total"),
    *("dreamr_store_failures_total", "transformers:requests_failed_total"),
    "transformers:prefix_cache_evictions_total",
}


async def text(address: str) -> str:
    def fetch() -> str:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as response:
            content: bytes = response.read()
        return content.decode()

    return await asyncio.to_thread(fetch)


async def figures(cluster: Cluster) -> dict[str, float]:
    """The sum of each sample's values over all processes; an empty family counts nothing."""
    found: dict[str, float] = {}
    for address in (*cluster.metrics.values(), cluster.triton.metrics_address):
        for family in text_string_to_metric_families(await text(address)):
            end = {"counter": "_total", "histogram": "_count"}.get(family.type, "")
            name = family.name.removesuffix("_total") + end
            values = [sample.value for sample in family.samples if sample.name == name]
            found[name] = found.get(name, 0.0) + sum(values)
    return found


async def asked(client: dreamr.AsyncClient) -> dreamr.Answer:
    """A session in which a rival was stopped, since its candidate was accepted."""
    for example in EXAMPLES:
        answer = await client.ask(example.question, images=[example.image], policy="fpsr", governor=False)
        if answer.totals.target.cancelled_calls and answer.totals.steps_by_draft:
            return answer
    raise AssertionError("no rival was ever stopped")


async def test_every_documented_metric_is_told_and_moves(
    client: dreamr.AsyncClient, cluster: Cluster
) -> None:
    before = await figures(cluster)
    await asked(client)
    # Spans go out every second.
    async with asyncio.timeout(10):
        while (after := await figures(cluster))["dreamr_spans_total"] == before["dreamr_spans_total"]:  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.1)
    names = {one.name + ("_count" if one.kind == "histogram" else ""): one.kind for one in documented()}
    assert set(names) - set(after) == set()
    stood = {name for name, kind in names.items() if kind != "gauge" and after[name] == before.get(name, 0.0)}
    assert stood <= STILL
    assert after["dreamr_replicas"] == 6  # three parts, each known and ready
    assert (
        after["transformers:last_token_timestamp_seconds"]
        > before["transformers:last_token_timestamp_seconds"]
    )


async def traced(client: dreamr.AsyncClient, receiver: Receiver) -> tuple[dreamr.Answer, list[Received]]:
    """A session, and all its spans once none of them is open."""
    answer = await asked(client)

    def found() -> list[Received]:
        traces = {
            one.trace for one in receiver.spans if one.attributes.get("session.id") == answer.session_id
        }
        return [one for one in receiver.spans if one.trace in traces]

    def whole(spans: list[Received]) -> bool:
        ids = {one.id for one in spans}
        # Its root is there, and whoever is named as a parent: so none of those is still open.
        roots = [one for one in spans if not one.parent]
        return len(roots) == 1 and all(one.parent in ids for one in spans if one.parent)

    async with asyncio.timeout(10):
        while not whole(spans := found()) or {one.service for one in spans} != SERVICES:  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.1)
    return answer, spans


def of_the_target(spans: list[Received]) -> list[Received]:
    return [one for one in spans if one.name == "triton" and one.service == "TargetService"]


async def test_a_session_is_one_trace_through_every_service(
    client: dreamr.AsyncClient, collector: tuple[Receiver, str]
) -> None:
    receiver, _ = collector
    # What is stopped soon enough has not come to the engine.
    for _ in range(10):
        answer, spans = await traced(client, receiver)
        if any(one.attributes.get(CANCELLED) for one in of_the_target(spans)):
            break
    assert len({one.trace for one in spans}) == 1
    assert not any(one.failed for one in spans)

    def named(name: str) -> list[Received]:
        return [one for one in spans if one.name == name]

    rivals = named("rival")
    for name in ("draft", "verdict"):
        assert any(rival.overlaps(other) for rival in rivals for other in named(name)), name
    stopped = [one for one in rivals if one.attributes.get(CANCELLED)]
    # One that is stopped before it begins has no span.
    assert 0 < len(stopped) <= answer.totals.target.cancelled_calls
    engine = of_the_target(spans)
    assert any(one.attributes.get(CANCELLED) for one in engine)
    written = [one for one in engine if "gen_ai.response.finish_reasons" in one.attributes]
    assert all(one.attributes["gen_ai.usage.output_tokens"] > 0 for one in written)
    assert {one.attributes["gen_ai.request.model"] for one in named("triton")} == {"draft", "target"}
