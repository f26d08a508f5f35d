"""What the event loop has to say stands in the service's log, in the service's form."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import structlog
import uvloop

from services.common import logs


class Closing:
    """A transport that is on its way out."""

    def is_closing(self) -> bool:
        return True


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


@pytest.mark.parametrize(("transport", "level"), [(Closing(), "debug"), (None, "error")])
def test_data_on_a_connection_that_is_closed_is_no_error(
    loop: asyncio.AbstractEventLoop, transport: Closing | None, level: str
) -> None:
    context = {
        "message": "Fatal error on SSL protocol",
        "exception": RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed"),
    }
    with structlog.testing.capture_logs() as lines:
        loop.call_exception_handler(context | ({"transport": transport} if transport else {}))
    assert [line["log_level"] for line in lines] == [level]
