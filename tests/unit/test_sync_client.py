"""The client for programs without asyncio, against a fake gateway over real gRPC."""

import asyncio
import io
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import dreamr
from tests.unit.test_client import COMMIT, STARTED, FakeGateway
from tests.unit.test_client import serving as serving_async

WAIT = 30.0


class Elsewhere:
    """A fake gateway in a thread of its own, as it would be in a process of its own."""

    def __init__(self, fake: FakeGateway, loop: asyncio.AbstractEventLoop) -> None:
        self.fake = fake
        self._loop = loop

    def until(self, event: asyncio.Event) -> None:
        """Waits for what happens there."""

        async def happened() -> None:
            await event.wait()

        asyncio.run_coroutine_threadsafe(happened(), self._loop).result(WAIT)


@contextmanager
def serving() -> Iterator[tuple[Elsewhere, dreamr.Client]]:
    started, done = threading.Event(), asyncio.Event()
    found: list[Elsewhere] = []

    async def serve() -> None:
        async with serving_async() as (fake, _):
            found.append(Elsewhere(fake, asyncio.get_running_loop()))
            started.set()
            await done.wait()

    thread = threading.Thread(target=asyncio.run, args=[serve()])
    thread.start()
    try:
        assert started.wait(WAIT)
        with dreamr.Client(found[0].fake.address, timeout=30) as client:
            yield found[0], client
    finally:
        found[0]._loop.call_soon_threadsafe(done.set)
        thread.join(WAIT)
        assert not thread.is_alive()


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_events_come_one_by_one() -> None:
    with serving() as (_, client):
        started, commit, finished = client.reason("q")
    assert isinstance(started, dreamr.Started)
    assert isinstance(commit, dreamr.Commit)
    assert isinstance(finished, dreamr.Finished)
    assert "dreamr-client" not in threads()


def test_ask_session_cancel_and_resume() -> None:
    with serving() as (gateway, client):
        assert client.ask("q", policy="target", timeout=5).answer == "42"
        assert client.session("s").status == "running"
        assert client.cancel("s")
        *_, finished = client.resume("s", from_index=1)
        with pytest.raises(dreamr.NotFoundError):
            client.session("none")
    assert isinstance(finished, dreamr.Finished)
    assert gateway.fake.requests[0].options.policy == "target"
    assert gateway.fake.resumed == [("s", 1)]


def test_images_may_be_paths_bytes_and_pil(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 8), "red")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    path = tmp_path / "red.png"
    picture.save(path)
    with serving() as (gateway, client):
        client.ask("q", images=[path, str(path), buffer.getvalue(), picture])
        with pytest.raises(FileNotFoundError):
            client.ask("q", images=[tmp_path / "none.png"])
    assert [image.data for image in gateway.fake.requests[0].images] == [buffer.getvalue()] * 4


def leave_by_break(_: Elsewhere, client: dreamr.Client) -> None:
    for event in client.reason("q"):
        if isinstance(event, dreamr.Commit):
            break


def leave_by_an_error(_: Elsewhere, client: dreamr.Client) -> None:
    def fail() -> None:
        for event in client.reason("q"):
            if isinstance(event, dreamr.Commit):
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()


def leave_by_close(_: Elsewhere, client: dreamr.Client) -> None:
    events = client.reason("q")
    next(events)
    next(events)
    events.close()


def leave_by_closing_the_client(_: Elsewhere, client: dreamr.Client) -> None:
    events = client.reason("q")
    next(events)
    client.close()
    events.close()


def leave_by_forgetting_it(_: Elsewhere, client: dreamr.Client) -> None:
    events = client.reason("q")
    next(events)
    del events


def leave_by_an_interrupt(gateway: Elsewhere, client: dreamr.Client) -> None:
    with interrupted(gateway):
        list(client.reason("q"))


@contextmanager
def interrupted(gateway: Elsewhere) -> Iterator[None]:
    """Ctrl-C, once the gateway has been asked."""
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        gateway.until(gateway.fake.asked)
        signal.pthread_kill(main, signal.SIGINT)

    later = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the thread's start belongs to what it interrupts
        later.start()
        yield
    later.join()


@pytest.mark.parametrize(
    "leave",
    [
        leave_by_break,
        leave_by_an_error,
        leave_by_close,
        leave_by_closing_the_client,
        leave_by_forgetting_it,
        leave_by_an_interrupt,
    ],
)
def test_leaving_early_cancels_the_call(leave: Callable[[Elsewhere, dreamr.Client], None]) -> None:
    with serving() as (gateway, client):
        gateway.fake.says = [STARTED, COMMIT]
        leave(gateway, client)
        gateway.until(gateway.fake.cancelled)


def test_an_interrupt_of_ask_cancels_it_and_the_client_goes_on() -> None:
    with serving() as (gateway, client):
        gateway.fake.says = [STARTED, COMMIT]
        with interrupted(gateway):
            client.ask("q")
        gateway.until(gateway.fake.cancelled)
        assert client.session("s").status == "running"


def test_an_answer_that_breaks_off_is_resumed() -> None:
    with serving() as (gateway, client):
        gateway.fake.breaks_behind = [2]
        assert [type(event).__name__ for event in client.reason("q")] == ["Started", "Commit", "Finished"]
    assert gateway.fake.resumed == [("s", 1)]


def test_threads_share_a_client() -> None:
    answers: list[str] = []
    with serving() as (_, client):
        asking = [threading.Thread(target=lambda: answers.append(client.ask("q").answer)) for _ in range(8)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join(WAIT)
    assert answers == ["42"] * 8


def test_a_wait_in_another_thread_ends_when_the_client_is_closed() -> None:
    failures: list[Exception] = []
    with serving() as (gateway, client):
        gateway.fake.says = [STARTED, COMMIT]

        def wait() -> None:
            try:
                client.ask("q")
            except dreamr.UnavailableError as error:
                failures.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        gateway.until(gateway.fake.asked)
        client.close()
        thread.join(WAIT)
        with pytest.raises(RuntimeError, match="closed"):
            client.ask("q")
        client.close()
    assert [str(error) for error in failures] == ["the client was closed"]


def test_a_client_that_is_forgotten_ends_its_thread() -> None:
    client: Any = dreamr.Client("127.0.0.1:1")
    assert "dreamr-client" in threads()
    del client
    until = time.monotonic() + WAIT
    while "dreamr-client" in threads() and time.monotonic() < until:
        time.sleep(0.01)
    assert "dreamr-client" not in threads()


def test_certificates_that_cannot_be_used_leave_no_thread(tmp_path: Path) -> None:
    with pytest.raises(dreamr.TlsError):
        dreamr.Client("127.0.0.1:1", tls=dreamr.Tls(tmp_path / "ca.pem"))
    assert "dreamr-client" not in threads()


def test_a_program_that_just_ends_cancels_what_it_had_begun() -> None:
    program = """
import sys, dreamr
client = dreamr.Client(sys.argv[1])
events = client.reason("q")
next(events)
"""
    with serving() as (gateway, _):
        gateway.fake.says = [STARTED, COMMIT]
        arguments = [sys.executable, "-c", program, gateway.fake.address]
        ended = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
        gateway.until(gateway.fake.cancelled)
    assert (ended.returncode, ended.stderr) == (0, "")
