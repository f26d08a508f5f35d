"""The commands against real parts, as a user types them."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import dreamr
from dreamr.cluster.cluster import Cluster
from training.task import held_out

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session")]

DREAMR = [sys.executable, "-c", "from dreamr.cli import main; main()"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DREAMR, *arguments], capture_output=True, text=True, timeout=200, check=False)


async def test_ask_prints_one_object(cluster: Cluster, tmp_path: Path) -> None:
    example = next(held_out(1, seed=21))
    image = tmp_path / "image.png"
    image.write_bytes(example.png())
    ended = run("ask", str(image), example.question, "--address", cluster.address, "--json")
    assert ended.returncode == 0, ended.stderr
    answer = json.loads(ended.stdout)
    assert {"answer", "policy", "session_id", "steps", "totals", "seconds"} <= set(answer)
    assert {"index", "text", "author", "score"} == set(answer["steps"][0])
    refused = run("ask", str(image), " ", "--address", cluster.address)
    assert refused.returncode == 2
    assert "question" in refused.stderr


async def test_bench_writes_its_figures(cluster: Cluster, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    ended = run(
        *("bench", "--policies", "target,fpsr", "--questions", "3", "--json", str(out)),
        *("--address", cluster.address, "--plots", str(tmp_path / "plots")),
    )
    assert ended.returncode == 0, ended.stderr
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"latency.svg", "speedup.svg"}
    report = json.loads(out.read_text())
    for name in ("target", "fpsr"):
        figures = report["policies"][name]
        assert {"mean", "p50", "p95", "samples"} == set(figures["latency_seconds"])
        assert {"accuracy", "tokens_per_answer", "acceptance", "wasted_tokens", "cpu_seconds"} <= set(figures)
    low, high = report["speedup"]["fpsr"]["ci95"]
    assert low <= report["speedup"]["fpsr"]["ratio"] <= high


async def test_up_says_where_and_leaves_nothing_behind() -> None:
    before = _on_disk()
    process = subprocess.Popen(
        [*DREAMR, "up", "--address", "127.0.0.1:0", "--http", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline().split()
    assert line[0] == "ready"
    children = _below(process.pid)
    assert len(children) >= 5
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    process.stdout.close()
    assert not [pid for pid in children if _alive(pid)]
    assert _on_disk() <= before


async def test_up_goes_on_without_a_draft_and_ends_with_the_gateway(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*DREAMR, "up", "--address", "127.0.0.1:0", "--http", "127.0.0.1:0", "--logs", "logs"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address = process.stdout.readline().split()[1]
    _kill(process.pid, "services.draft")
    example = next(held_out(1, seed=22))
    async with dreamr.AsyncClient(address, timeout=30) as client:
        answer = await client.ask(example.question, images=[example.image])
    assert answer.degraded
    assert process.poll() is None
    _kill(process.pid, "services.gateway")
    out, problems = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert "draft ended; the cluster goes on without it" in problems
    assert "gateway ended" in problems
    assert (tmp_path / "logs" / "redis.log").stat().st_size


def _kill(root: int, module: str) -> None:
    (found,) = [pid for pid in _below(root) if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(found, signal.SIGKILL)


def _on_disk() -> set[Path]:
    """What a cluster may leave: shared memory and temporary folders."""
    temporary = Path(tempfile.gettempdir())
    return {*Path("/dev/shm").iterdir(), *temporary.glob("dreamr-*"), *Path("/tmp").glob("python_env_*")}


def _below(pid: int) -> set[int]:
    from bench.cpu import tree

    return tree([pid]) - {pid}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
