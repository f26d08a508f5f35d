"""Two gateways fight for sessions, and Redis' log of it."""

import shutil
import sys
from pathlib import Path

import pytest

from bench.chaos.fight import fight
from bench.chaos.watched import BAD

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module")]


async def test_two_gateways_never_mix_their_steps() -> None:
    if not shutil.which("redis-server", path=str(Path(sys.executable).parent)) and not shutil.which(
        "redis-server"
    ):
        pytest.skip("redis-server is not installed (Debian: redis-tools)")
    report = await fight(20, at_once=10, seed=1)
    assert report["wrong"] == []
    assert report["failures"] == []
    assert {name: report[name] for name in BAD} == dict.fromkeys(BAD, 0)
    assert report["fought"] >= 20
    assert report["takeovers"] >= 40
