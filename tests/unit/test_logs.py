"""What the event loop has to say stands in the service's log, in the service's form."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import structlog
import uvloop

from services.common import logs


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop])
def loop(request: pytest.FixtureRequest) -> Any:
    make: Callable[[], asyncio.AbstractEventLoop] = request.param
    made = make()
    made.set_exception_handler(logs.event_loop_error)
    yield made
    made.close()


def test_what_nobody_awaits_is_an_error_with_its_traceback(loop: asyncio.AbstractEventLoop) -> None:
    def fail() -> None:
        raise ValueError("nobody awaits this")

    with structlog.testing.capture_logs() as lines:
        loop.call_soon(fail)
        loop.call_soon(loop.stop)
        loop.run_forever()
    [line] = lines
    assert (line["event"], line["log_level"]) == ("event loop", "error")
    assert str(line["exc_info"]) == "nobody awaits this"


@pytest.mark.parametrize(
    ("reason", "level"),
    [
        ("unable to perform operation on <TCPTransport closed=True>; the handler is closed", "debug"),
        ("read() called while another coroutine is already waiting for incoming data", "error"),
    ],
)
def test_data_on_a_connection_that_is_closed_is_no_error(
    loop: asyncio.AbstractEventLoop, reason: str, level: str
) -> None:
    context = {
        "message": "Fatal error on SSL protocol",
        "exception": RuntimeError(reason),
        "transport": "its transport",
    }
    with structlog.testing.capture_logs() as lines:
        loop.call_exception_handler(context)
    [line] = lines
    assert (line["log_level"], line["transport"]) == (level, "its transport")
