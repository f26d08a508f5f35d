"""The probe of containers: it finds whom to ask in the environment."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2_grpc

from dreamr.tls import Tls
from services.common.credentials import server_credentials
from services.common.health import Health
from tests.unit.fake_triton import serving
from tests.unit.issued import issued
from tests.unit.worker import Worker, worker


@pytest.fixture
async def running() -> AsyncIterator[Worker]:
    async with worker() as found:
        yield found


async def probe(**environment: str) -> tuple[int, str]:
    """How the probe ends, and what it says."""
    rest = {name: value for name, value in os.environ.items() if not name.startswith("DREAMR_")}
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "services.common.check_health"],
        env=rest | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stderr


async def test_a_service_is_healthy_while_it_serves(running: Worker) -> None:
    port = running.address.rsplit(":", 1)[1]
    # As in a container, where a service listens at every address.
    assert await probe(DREAMR_DRAFT_LISTEN=f"0.0.0.0:{port}") == (0, "")
    running.health.set(serving=False)
    assert await probe(DREAMR_DRAFT_LISTEN=f"0.0.0.0:{port}") == (1, "not healthy: draft: not serving\n")


async def test_all_of_a_container_must_be_healthy(running: Worker) -> None:
    status, said = await probe(DREAMR_DRAFT_LISTEN=running.address, DREAMR_TRITON_LISTEN="127.0.0.1:1")
    assert status == 1
    assert said.startswith("not healthy: triton: ")


async def test_whom_to_ask_must_be_known() -> None:
    status, said = await probe()
    assert status == 1
    assert "DREAMR_*_LISTEN" in said


async def test_a_service_is_asked_by_tls(tmp_path: Path) -> None:
    folder = issued(tmp_path / "certs")
    health = Health("part")
    credentials = server_credentials(Tls.of(folder, "target"))
    async with serving(
        lambda server: health_pb2_grpc.add_HealthServicer_to_server(health, server), credentials=credentials
    ) as address:
        files = Tls.of(folder, "target")
        shown = {
            "DREAMR_TARGET_LISTEN": address,
            "DREAMR_TARGET_TLS_CA": str(files.ca),
            "DREAMR_TARGET_TLS_CERT": str(files.cert),
            "DREAMR_TARGET_TLS_KEY": str(files.key),
        }
        assert await probe(**shown) == (0, "")
        # Of another role, and so not who is to be asked.
        status, _ = await probe(**{name.replace("TARGET", "DRAFT"): value for name, value in shown.items()})
        assert status == 1
        health.set(serving=False)
        assert (await probe(**shown))[0] == 1
