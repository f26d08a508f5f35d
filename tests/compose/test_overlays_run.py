"""The overlays that a machine without a GPU can run, on a real Docker engine: `make compose-test`."""

import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

import dreamr
from tests.compose.stack import BUILD_SECONDS, COMPOSE, Stack, free_ports, missing, published
from tests.unit.issued import issued
from training.task import held_out

pytestmark = [pytest.mark.compose, pytest.mark.timeout(BUILD_SECONDS + 1800)]

EXAMPLE = next(held_out(1, seed=11))
# Two gateways, target, verifier, Triton, Redis and a draft worker.
CONTAINERS = 7


@contextmanager
def running(overlay: str, count: int, *services: str, **environment: str) -> Iterator[tuple[Stack, str]]:
    """The stack under an overlay; yields the first gateway's address, too."""
    if lacks := missing():
        pytest.fail(f"this test runs on a Docker engine: {lacks}", pytrace=False)
    ports = free_ports(4)
    stack = Stack(
        f"dreamr-test-{overlay}-{os.getpid()}",
        ["docker-compose.yml", f"docker-compose.{overlay}.yml"],
        {**published(ports), **environment},
    )
    try:
        stack.compose("build", seconds=BUILD_SECONDS)
        stack.up(*services)
        stack.wait_until_healthy(count)
        yield stack, f"127.0.0.1:{ports[0]}"
    finally:
        stack.compose("down", "--volumes", "--timeout", "30")


async def test_tls_from_the_client_to_triton(tmp_path: Path) -> None:
    folder = issued(tmp_path / "certs")
    for key in folder.glob("*-key.pem"):
        # Elsewhere they belong to the services' user; a test may not give them away.
        key.chmod(0o644)
    with running("tls", CONTAINERS, DREAMR_CERTS=str(folder)) as (stack, address):
        async with dreamr.AsyncClient(address, tls=dreamr.Tls.of(folder), timeout=60) as client:
            answer = await client.ask(EXAMPLE.question, images=[EXAMPLE.image])
        assert answer.answer
        assert answer.degraded == ()
        # Stored by way of TLS, too.
        for gateway in stack.containers("gateway"):
            assert "rediss://" in stack.docker("exec", gateway, "cat", "/run/dreamr/dreamr_gateway_redis")
        async with dreamr.AsyncClient(address, timeout=30, resume_seconds=0) as stranger:
            with pytest.raises(dreamr.UnavailableError):
                await stranger.ask(EXAMPLE.question, images=[EXAMPLE.image])
        # Nor is Triton reached without a certificate.
        (target,) = stack.containers("target")
        plain = "import grpc; grpc.channel_ready_future(grpc.insecure_channel('triton:8001')).result(5)"
        with pytest.raises(AssertionError, match="FutureTimeoutError"):
            stack.docker("exec", target, "python", "-c", plain)


def test_prometheus_finds_every_container() -> None:
    file = COMPOSE / "docker-compose.observability.yml"
    image = yaml.safe_load(file.read_text())["services"]["prometheus"]["image"]
    here = subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False)
    if (
        here.returncode
        and subprocess.run(["docker", "pull", image], capture_output=True, check=False).returncode
    ):
        pytest.skip(f"{image} is not here, and no registry has it")
    (port,) = free_ports(1)
    services = ("gateway", "gateway-2", "prometheus")
    # Prometheus tells no health of its own to the engine.
    with running("observability", CONTAINERS + 1, *services, DREAMR_PROMETHEUS_PORT=str(port)):
        wanted = {"gateway": 2, "draft": 1, "verifier": 1, "target": 1, "triton": 2}
        found: dict[str, int] = {}
        deadline = time.monotonic() + 120
        while found != wanted and time.monotonic() < deadline:
            # A target is asked every few seconds.
            time.sleep(1)
            found = healthy_targets(port)
        assert found == wanted


def healthy_targets(port: int) -> dict[str, int]:
    """How many of each job Prometheus has reached."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/targets", timeout=10) as reply:
        active = json.load(reply)["data"]["activeTargets"]
    up = [target["labels"]["job"] for target in active if target["health"] == "up"]
    return {job: up.count(job) for job in up}
