"""The stack as it stands, on a real Docker engine: `make compose-test`."""

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

import dreamr
from tests.compose.stack import BUILD_SECONDS, Stack, free_ports, health, missing, published
from training.task import Example, held_out

pytestmark = [pytest.mark.compose, pytest.mark.timeout(BUILD_SECONDS + 1800)]

DREAMR = [sys.executable, "-c", "from dreamr.cli import main; main()"]
DRAFTS = 3
# Two gateways, target, verifier, Triton and Redis.
OTHERS = 6
LONG = sorted(held_out(60, seed=13), key=lambda example: -len(example.steps))[:12]


@pytest.fixture(scope="module")
def ports() -> list[int]:
    """Of the gateways for gRPC, and for HTTP."""
    return free_ports(4)


@pytest.fixture(scope="module")
def stack(ports: list[int]) -> Iterator[Stack]:
    if lacks := missing():
        pytest.fail(f"this test runs on a Docker engine: {lacks}", pytrace=False)
    environment = published(ports)
    running = Stack(f"dreamr-test-{os.getpid()}", ["docker-compose.yml"], environment)
    try:
        running.compose("build", seconds=BUILD_SECONDS)
        running.up("--scale", f"draft={DRAFTS}")
        running.wait_until_healthy(OTHERS + DRAFTS)
        yield running
    finally:
        running.compose("down", "--volumes", "--timeout", "30")


@pytest.fixture(scope="module")
def known(stack: Stack, ports: list[int]) -> list[Example]:
    """Long questions to which the pair knows the answer, by either policy."""

    async def right() -> list[Example]:
        async with dreamr.AsyncClient(f"127.0.0.1:{ports[0]}", timeout=120) as client:
            found = []
            for one in LONG:
                answers = [
                    await client.ask(one.question, images=[one.image], policy=p) for p in ("target", "fpsr")
                ]
                if {answer.answer for answer in answers} == {one.answer}:
                    found.append(one)
        return found

    found = asyncio.run(right())
    # Of a hundred questions it answers 97.
    assert len(found) >= len(LONG) * 3 // 4
    return found


@pytest.fixture
async def client(ports: list[int]) -> AsyncIterator[dreamr.AsyncClient]:
    async with dreamr.AsyncClient(
        ",".join(f"127.0.0.1:{port}" for port in ports[:2]), timeout=120
    ) as connected:
        yield connected


def test_ask_is_answered_at_the_published_port(
    known: list[Example], ports: list[int], tmp_path: Path
) -> None:
    example = known[0]
    image = tmp_path / "image.png"
    image.write_bytes(example.png())
    for port in ports[:2]:
        command = [*DREAMR, "ask", str(image), example.question, "--address", f"127.0.0.1:{port}", "--json"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert ended.returncode == 0, ended.stderr
        answer = json.loads(ended.stdout)
        assert answer["answer"] == example.answer
        assert answer["degraded"] == []


def test_openai_clients_are_served(stack: Stack, ports: list[int]) -> None:
    for port in ports[2:]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=30) as reply:
            assert "dreamr" in {model["id"] for model in json.load(reply)["data"]}


def test_nobody_is_root_and_nothing_can_be_written(stack: Stack) -> None:
    for name, container in stack.containers().items():
        assert container["Config"]["User"] == "dreamr", name
        assert container["HostConfig"]["ReadonlyRootfs"], name
        assert container["HostConfig"]["CapDrop"] == ["ALL"], name
        assert stack.docker("exec", name, "id", "-u").strip() == "10001"


def test_the_password_is_in_a_file_alone(stack: Stack) -> None:
    (redis,) = stack.containers("redis")
    url = stack.docker("exec", redis, "cat", "/run/dreamr/dreamr_gateway_redis")
    password = url.split(":")[2].split("@")[0]
    assert len(password) > 30
    assert password not in json.dumps(stack.containers())
    for name in stack.containers():
        shown = stack.docker(
            "exec", name, "sh", "-c", "cat /proc/[0-9]*/cmdline /proc/1/environ | tr '\\0' '\\n'"
        )
        assert password not in shown
    assert "NOAUTH" in stack.docker("exec", redis, "redis-cli", "dbsize")


async def test_every_draft_worker_is_found(stack: Stack, client: dreamr.AsyncClient) -> None:
    await asked_until_all_have_drafted(stack, client)
    # One more, without a word to the gateways.
    stack.up("--no-recreate", "--scale", f"draft={DRAFTS + 1}")
    stack.wait_until_healthy(OTHERS + DRAFTS + 1)
    await asked_until_all_have_drafted(stack, client)
    stack.up("--no-recreate", "--scale", f"draft={DRAFTS}")
    stack.wait_until_healthy(OTHERS + DRAFTS)


async def test_a_gateway_and_a_draft_worker_are_killed_within_a_session(
    stack: Stack, known: list[Example], client: dreamr.AsyncClient
) -> None:
    (triton,), (gateway,) = stack.containers("triton"), stack.containers("gateway")
    draft = next(iter(stack.containers("draft")))
    for example in known:
        seen: list[dreamr.Event] = []
        killed = False
        async with aclosing(client.reason(example.question, images=[example.image])) as told:
            async for event in told:
                seen.append(event)
                if not isinstance(event, dreamr.Commit) or event.index:
                    continue
                # Held in the middle, so that it surely has not ended when they are killed.
                stack.docker("pause", triton)
                try:
                    killed = await is_running(client, seen)
                    if killed:
                        stack.docker("kill", gateway, draft)
                finally:
                    stack.docker("unpause", triton)
        check(seen, example)
        if killed:
            break
    assert killed, "every session had ended before the target could be held"
    assert {health(one) for one in stack.containers("gateway").values()} == {"exited"}
    # Docker calls a container that was paused unhealthy until its next probe, and Compose starts nothing
    # behind it until then.
    stack.wait_until_healthy(OTHERS + DRAFTS - 2, exited=2)
    # And the rest goes on as before.
    answer = await client.ask(known[0].question, images=[known[0].image])
    assert (answer.answer, answer.degraded) == (known[0].answer, ())


def test_all_end_well_when_told_to_and_nothing_is_left(stack: Stack) -> None:
    stack.up("--scale", f"draft={DRAFTS}")
    stack.wait_until_healthy(OTHERS + DRAFTS)
    stack.compose("stop")
    ended = {name: one["State"]["ExitCode"] for name, one in stack.containers().items()}
    assert set(ended.values()) == {0}, f"{ended}\n{stack.compose('logs', '--tail=20')}"
    stack.compose("down", "--volumes")
    assert stack.left_behind() == []


async def asked_until_all_have_drafted(stack: Stack, client: dreamr.AsyncClient) -> None:
    """Asks many questions at once until every draft worker has been called."""
    workers = list(stack.containers("draft"))
    idle = workers
    for _ in range(10):
        await asyncio.gather(*(client.ask(one.question, images=[one.image]) for one in LONG))
        idle = [name for name in workers if not stack.metric(name, "dreamr_calls_total")]
        if not idle:
            return
    raise AssertionError(f"never called: {idle}")


async def is_running(client: dreamr.AsyncClient, seen: list[dreamr.Event]) -> bool:
    started = seen[0]
    assert isinstance(started, dreamr.Started)
    return (await client.session(started.session_id)).status == "running"


def check(seen: list[dreamr.Event], example: Example) -> None:
    """Nothing is missing, repeated or out of order, and the answer is right."""
    commits = [event for event in seen if isinstance(event, dreamr.Commit)]
    assert [commit.index for commit in commits] == list(range(len(commits)))
    assert isinstance(seen[-1], dreamr.Finished)
    assert seen[-1].answer == example.answer
