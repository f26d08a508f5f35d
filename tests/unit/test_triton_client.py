"""The Triton client against a fake of Triton's front: errors, deadlines, and no call left running."""

import asyncio
from collections.abc import Iterator

import pytest

from services.common import triton_stream
from services.common.errors import (
    BrokenError,
    InvalidRequestError,
    LateError,
    NotFoundError,
    OverloadedError,
    ServiceError,
    UnavailableError,
)
from services.common.triton import TritonModel
from tests.unit.fake_triton import FakeTriton, Say, Seen, serving_triton


async def test_a_completion_carries_prompt_images_and_parameters() -> None:
    async with serving_triton(lambda _: [Say("hello", "stop")]) as (fake, address):
        model = TritonModel(address, "m")
        chunk = await model.complete("prompt", [b"\x89PNG"], {"max_tokens": 3}, seconds=5)
        await model.close()
    assert (chunk.text, chunk.finish_reason, chunk.tokens, chunk.prompt_tokens) == ("hello", "stop", 1, 7)
    assert fake.seen == [Seen("prompt", 1, False, {"max_tokens": 3})]


async def test_log_probabilities_come_best_first() -> None:
    place = {
        "5": {"logprob": -2.0, "rank": 2, "decoded_token": " negative"},
        "9": {"logprob": -0.2, "rank": 1, "decoded_token": " positive"},
    }
    async with serving_triton(lambda _: [Say("x", "length", logprobs=[place])]) as (_, address):
        model = TritonModel(address, "m")
        chunk = await model.complete("p", [], {"max_tokens": 1, "logprobs": 2}, seconds=5)
        await model.close()
    assert [(token.id, token.text) for token in chunk.logprobs[0]] == [(9, " positive"), (5, " negative")]


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("INVALID_ARGUMENT: text_input: 600 tokens, more than max_model_len 512", InvalidRequestError),
        ("UNAVAILABLE: the queue is full: 64 requests wait (MAX_QUEUE_SIZE)", OverloadedError),
        ("UNAVAILABLE: the model is being unloaded", UnavailableError),
        ("CANCELLED: cancelled", UnavailableError),
        ("INTERNAL: RuntimeError: boom", BrokenError),
        ("The prompt (length 900) is longer than the maximum model length of 512", InvalidRequestError),
        ("[request id: <id_unknown>] Exceeds maximum queue size", OverloadedError),
        ("Request for unknown model: 'm' is not found", UnavailableError),
        ("Request for unknown model: 'm' version 7 is not found", NotFoundError),
        ("something nobody thought of", BrokenError),
    ],
)
async def test_an_error_in_the_stream_gets_its_class(message: str, kind: type[ServiceError]) -> None:
    async with serving_triton(lambda _: [Say(error=message)]) as (_, address):
        model = TritonModel(address, "m")
        with pytest.raises(ServiceError) as caught:
            await model.complete("p", [], {}, seconds=5)
        await model.close()
    assert type(caught.value) is kind


async def test_a_generation_without_an_end_is_an_error() -> None:
    async with serving_triton(lambda _: [Say("half")], takes_cancel=False) as (_, address):
        model = TritonModel(address, "m")
        with pytest.raises(BrokenError, match="finished"):
            await model.complete("p", [], {}, seconds=5)
        await model.close()


async def test_a_silent_server_is_late() -> None:
    async with serving_triton(lambda _: [Say("x", "stop", wait=30)]) as (_, address):
        model = TritonModel(address, "m")
        with pytest.raises(LateError):
            await model.complete("p", [], {}, seconds=0.05)
        await model.close()


async def test_a_server_that_is_gone_is_unavailable() -> None:
    async with serving_triton(lambda _: []) as (_, address):
        pass
    model = TritonModel(address, "m")
    with pytest.raises(UnavailableError):
        await model.complete("p", [], {}, seconds=5)
    await model.close()


@pytest.mark.parametrize("takes_cancel", [True, False])
async def test_leaving_the_block_ends_the_generation(takes_cancel: bool) -> None:
    says = [Say("a"), Say("b", "stop", wait=30)]
    async with serving_triton(lambda _: says, takes_cancel) as (fake, address):
        model = TritonModel(address, "m")
        async with model.generate("p", [], {}, stream=True, seconds=30) as chunks:
            async for _ in chunks:
                break
        await asyncio.wait_for(fake.cancelled.wait(), 2)
        await model.close()
    # A stream that is cancelled is not to be had without harm.
    assert fake.broken_off.is_set() != takes_cancel


@pytest.mark.parametrize("takes_cancel", [True, False])
async def test_cancelling_the_task_ends_the_generation(takes_cancel: bool) -> None:
    async with serving_triton(lambda _: [Say("b", "stop", wait=30)], takes_cancel) as (fake, address):
        model = TritonModel(address, "m")
        task = asyncio.create_task(model.complete("p", [], {}, seconds=30))
        await fake.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(fake.cancelled.wait(), 2)
        await model.close()
    assert fake.broken_off.is_set() != takes_cancel


async def broken_off(fake: FakeTriton, address: str) -> None:
    """Leaves a generation, and returns once its stream was cancelled."""
    model = TritonModel(address, "m")
    task = asyncio.create_task(model.complete("p", [], {}, seconds=30))
    await fake.asked.wait()
    task.cancel()
    await asyncio.wait_for(fake.broken_off.wait(), 2)
    await model.close()


async def test_a_cancel_that_may_reach_another_instance_is_not_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(triton_stream, "END_SECONDS", 60)
    async with serving_triton(lambda _: [Say("b", "stop", wait=30)]) as (fake, address):
        fake.instances = 2
        await broken_off(fake, address)


async def test_a_backend_that_does_not_heed_a_cancel_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_stream, "END_SECONDS", 0.1)
    async with serving_triton(lambda _: [Say("b", "stop", wait=30)]) as (fake, address):
        fake.heeds_cancel = False
        await broken_off(fake, address)


async def test_a_stream_that_breaks_off_is_heard_of_at_once() -> None:
    def breaks(_: Seen) -> Iterator[Say]:
        yield Say("a")
        raise RuntimeError("Triton is gone")

    async with serving_triton(breaks) as (_, address):
        model = TritonModel(address, "m")
        pieces = []

        async def listen() -> None:
            async with model.generate("p", [], {}, stream=True, seconds=30) as chunks:
                async for chunk in chunks:
                    pieces.append(chunk.text)

        with pytest.raises(ServiceError):
            await asyncio.wait_for(listen(), 5)
        assert pieces == ["a"]
        await model.close()


async def test_a_call_whose_last_piece_is_here_ends_by_itself() -> None:
    async with serving_triton(lambda _: [Say("a", "stop"), Say(wait=0.1)]) as (fake, address):
        model = TritonModel(address, "m")
        async with model.generate("p", [], {}, stream=True, seconds=5) as chunks:
            async for _ in chunks:
                break
        await model.close()
    assert not fake.cancelled.is_set()


@pytest.mark.parametrize("takes_cancel", [True, False])
async def test_no_request_is_the_first_of_its_stream(takes_cancel: bool) -> None:
    """Triton can lock up where a cancel meets a response of a stream's first request."""
    async with serving_triton(lambda _: [Say("a", "stop")], takes_cancel) as (fake, address):
        model = TritonModel(address, "m")
        for _ in range(2):
            await model.complete("p", [], {}, seconds=5, version=7)
        await model.close()
    # Of the same version: see `refused`.
    assert fake.refused == ["7", "7"]
    assert len(fake.seen) == 2
