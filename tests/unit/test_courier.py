"""The courier ends every request, also where a response cannot be delivered."""

import pytest

from models.backends.transformers.courier import Courier, CourierSink
from models.backends.transformers.request import Output


class Receiver:
    """Remembers what it was told; `broken` makes responses fail."""

    def __init__(self, broken: bool) -> None:
        self.told: list[str] = []
        self._broken = broken

    def deliver(self, output: Output) -> None:
        self.told.append(f"response {output.text}")
        if self._broken:
            raise RuntimeError("no shared memory is left")

    def deliver_error(self, error: Exception) -> None:
        self.told.append(f"error {error}")

    def is_cancelled(self) -> bool:
        return False


def carry(receiver: Receiver, outputs: list[Output]) -> CourierSink:
    courier = Courier()
    sink = CourierSink(courier, receiver, wants_cumulative_logprob=False)
    for output in outputs:
        sink.send(output)
    courier.start()
    courier.stop()
    return sink


@pytest.mark.parametrize("finish_reason", [None, "stop"])
def test_a_response_that_cannot_be_delivered_becomes_an_error(finish_reason: str | None) -> None:
    receiver = Receiver(broken=True)
    sink = carry(receiver, [Output("a", 1, 1, finish_reason=finish_reason)])
    assert receiver.told == ["response a", "error no shared memory is left"]
    assert sink.cancelled(), "the engine must not write on"


def test_outputs_that_wait_are_carried_together() -> None:
    receiver = Receiver(broken=False)
    carry(receiver, [Output("a", 1, 1), Output("b", 1, 1, finish_reason="stop")])
    assert receiver.told == ["response ab"]


def test_a_cancel_by_request_is_known_at_once_and_stays() -> None:
    courier = Courier()
    sink = CourierSink(courier, Receiver(broken=False), wants_cumulative_logprob=False)
    assert not sink.cancelled()
    sink.cancel()
    assert sink.cancelled()
    # That its call is still open is no news.
    sink._check()
    assert sink.cancelled()
