"""The services as processes in front of real Triton with a tiny pair: start-up, health, cancelling, drain."""

import asyncio
import io
import random
import re
import shutil
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from PIL import Image

from dreamr.cluster.triton import MODELS, TritonServer
from dreamr.v1 import (
    common_pb2,
    draft_pb2,
    draft_pb2_grpc,
    target_pb2,
    target_pb2_grpc,
    verifier_pb2,
    verifier_pb2_grpc,
)
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).resolve().parents[2]
READY = re.compile(r"^ready (\S+:\d+) metrics (\S+:\d+)\n$")
SERVING = health_pb2.HealthCheckResponse.SERVING


def question(**changes: str) -> common_pb2.Context:
    image = io.BytesIO()
    Image.new("RGB", (48, 48), (9, 10, 200)).save(image, "PNG")
    return common_pb2.Context(
        question=changes.get("question", "what ?"), images=[common_pb2.Image(data=image.getvalue())]
    )


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A model repository and a pair's settings around one tiny model with random weights."""
    make_tiny_model(tmp_path / "tiny")
    for name in ("draft", "target"):
        folder = tmp_path / "repository" / name / "1"
        folder.mkdir(parents=True)
        shutil.copy(MODELS / "repository" / name / "config.pbtxt", folder.parent)
        (folder / "model.json").write_text(
            f'{{"model": "{tmp_path / "tiny"}", "dtype": "float32", "max_model_len": 512}}'
        )
    path = tmp_path / "pair.toml"
    bundled = (MODELS / "bundled.toml").read_text()
    path.write_text(re.sub(r"repository/\w+/1/weights", "tiny", bundled))
    return path


@asynccontextmanager
async def process(name: str, *flags: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A service as a process, and its address once it says that it is ready."""
    service = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"services.{name}", *flags), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    try:
        assert service.stdout is not None
        line = (await asyncio.wait_for(service.stdout.readline(), 60)).decode()
        match = READY.match(line)
        assert match, line
        yield service, match[1]
        if service.returncode is None:
            service.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(service.wait(), 15) == 0
            assert await service.stdout.read() == b"", "stdout holds the ready line alone"
    finally:
        if service.returncode is None:
            service.kill()
            await service.wait()


def gauges(triton: TritonServer, name: str) -> float:
    """The sum of one of the backend's metrics over both models."""
    with urllib.request.urlopen(f"http://{triton.metrics_address}/metrics", timeout=5) as reply:
        text = reply.read().decode()
    return sum(
        float(value) for value in re.findall(rf"^transformers:{name}{{.*}} (\S+)$", text, re.MULTILINE)
    )


async def health(channel: grpc.aio.Channel, service: str = "") -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    reply = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
    return int(reply.status)


async def reflected(channel: grpc.aio.Channel) -> list[str]:
    """The services that a server says it has."""
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]), timeout=5)
    return [service.name async for reply in call for service in reply.list_services_response.service]


async def test_the_services_serve_cancel_and_drain(pair: Path, tmp_path: Path) -> None:
    common = ("--pair", str(pair), "--probe-seconds", "1")
    async with (
        TritonServer(tmp_path / "repository") as triton,
        process("draft", *common, "--triton", triton.grpc_address) as (_, draft_at),
        process("target", *common, "--triton", triton.grpc_address, "--loop", "asyncio") as (_, target_at),
        process("verifier", *common, "--target", target_at) as (_, verifier_at),
        grpc.aio.insecure_channel(draft_at) as to_draft,
        grpc.aio.insecure_channel(target_at) as to_target,
        grpc.aio.insecure_channel(verifier_at) as to_verifier,
    ):
        draft: draft_pb2_grpc.DraftServiceAsyncStub = draft_pb2_grpc.DraftServiceStub(to_draft)
        target: target_pb2_grpc.TargetServiceAsyncStub = target_pb2_grpc.TargetServiceStub(to_target)
        verifier: verifier_pb2_grpc.VerifierServiceAsyncStub = verifier_pb2_grpc.VerifierServiceStub(
            to_verifier
        )
        assert await health(to_verifier) == SERVING
        assert await health(to_draft, "dreamr.v1.DraftService") == SERVING
        assert "dreamr.v1.TargetService" in await reflected(to_target)

        drafting = draft_pb2.DraftRequest(context=question(), max_steps=3)
        steps = [response.step async for response in draft.Draft(drafting, timeout=20)]
        assert steps
        assert all(step.tokens for step in steps)
        alone = target_pb2.GenerateRequest(context=question())
        events = [event async for event in target.Generate(alone, timeout=20)]
        written = [event.written for event in events if event.HasField("written")]
        # Its steps are too long, each written by itself.
        assert len(written) > 1
        assert all(one.step.truncated for one in written[:-1])
        assert all(one.step.tokens == one.usage.output_tokens for one in written)
        judging = verifier_pb2.VerifyRequest(context=question(), candidate=common_pb2.Step(text="one ."))
        verdict = (await verifier.Verify(judging, timeout=20)).verdict
        assert verdict.mass == pytest.approx(verdict.p_pos + verdict.p_neg)

        # Requests that the model refuses, more than a few: none may take Triton down.
        for _ in range(20):
            long = draft_pb2.DraftRequest(context=question(question="x" * 3000), max_steps=1)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await draft.Draft(long, timeout=20).read()
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "max_model_len" in str(caught.value.details())

        chance = random.Random(0)
        for _ in range(40):
            call = draft.Draft(drafting) if chance.random() < 0.5 else target.Generate(alone)
            await asyncio.sleep(chance.random() * 0.05)
            call.cancel()
        await asyncio.sleep(0.2)
        assert gauges(triton, "num_requests_running") == 0
        assert gauges(triton, "num_requests_waiting") == 0

        # Triton gone: an error within the deadline, and health that says so.
        await triton.stop()
        with pytest.raises(grpc.aio.AioRpcError) as gone:
            await draft.Draft(drafting, timeout=10).read()
        assert gone.value.code() is grpc.StatusCode.UNAVAILABLE
        async with asyncio.timeout(15):
            while await health(to_verifier) == SERVING:  # noqa: ASYNC110 - another process's state
                await asyncio.sleep(0.2)


async def test_a_service_says_what_it_waits_for(pair: Path) -> None:
    service = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.draft", "--pair", str(pair), "--triton", "127.0.0.1:1"),
        *("--startup-seconds", "0.5", "--log-format", "json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    out, problems = await asyncio.wait_for(service.communicate(), 30)
    assert (service.returncode, out) == (1, b"")
    assert b"not ready in 0.5 s: draft:" in problems
