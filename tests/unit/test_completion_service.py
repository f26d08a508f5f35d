"""One model by itself over real gRPC; only Triton's front is a fake."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from dreamr.v1 import common_pb2, completion_pb2, completion_pb2_grpc
from services.common.completion import CompletionService
from services.common.interceptor import StatusInterceptor
from services.common.pair import ReasoningSettings
from services.common.prompts import Prompts
from services.common.triton import TritonModel
from tests.unit.fake_triton import FakeTriton, Say, Seen, serving, serving_triton

Code = grpc.StatusCode
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no instructions') }}{% endif %}"
    "<{{ m['role'] }}>{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{{ p['text'] if p['type'] == 'text' else '<image>' }}{% endfor %}{% endif %}"
    "<end>{% endfor %}{% if add_generation_prompt %}<assistant>"
    "{% if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}{% endif %}"
)
USER = completion_pb2.CHAT_ROLE_USER
ASSISTANT = completion_pb2.CHAT_ROLE_ASSISTANT


def message(role: int, *parts: str | bytes) -> completion_pb2.ChatMessage:
    return completion_pb2.ChatMessage(
        role=role,  # type: ignore[arg-type]  # an enum's value
        parts=[
            completion_pb2.ChatMessage.Part(text=part)
            if isinstance(part, str)
            else completion_pb2.ChatMessage.Part(image=common_pb2.Image(data=part))
            for part in parts
        ],
    )


def asked(*messages: completion_pb2.ChatMessage, **changes: Any) -> completion_pb2.CompleteRequest:
    return completion_pb2.CompleteRequest(messages=messages or [message(USER, "what ?")], **changes)


@asynccontextmanager
async def serving_model(
    folder: Path, script: Callable[[Seen], list[Say]]
) -> AsyncIterator[tuple[FakeTriton, "completion_pb2_grpc.CompletionServiceAsyncStub"]]:
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    settings = ReasoningSettings(max_images=2)
    async with serving_triton(script) as (triton, address):
        model = TritonModel(address, "m")
        service = CompletionService(model, Prompts(folder, settings), settings, 30)

        def add(server: grpc.aio.Server) -> None:
            completion_pb2_grpc.add_CompletionServiceServicer_to_server(service, server)

        async with (
            serving(add, interceptors=[StatusInterceptor()]) as front,
            grpc.aio.insecure_channel(front) as channel,
        ):
            yield triton, completion_pb2_grpc.CompletionServiceStub(channel)
        await model.close()


def ending(seen: Seen) -> list[Say]:
    return [Say("one"), Say(" two", "length")]


async def test_the_template_writes_the_prompt(tmp_path: Path) -> None:
    async with serving_model(tmp_path, ending) as (triton, stub):
        user, own = message(USER, b"png", "what", " ?"), message(ASSISTANT, "<think>\nfirst ")
        for request, prompt in (
            (asked(user), "<user><image>what ?<end><assistant><think>\n"),
            (asked(user, thinking=False), "<user><image>what ?<end><assistant>"),
            (asked(user, no_generation_prompt=True), "<user><image>what ?<end>"),
            (asked(user, own), "<user><image>what ?<end><assistant><think>\nfirst <end><assistant><think>\n"),
            (
                asked(user, own, continue_final_message=True),
                "<user><image>what ?<end><assistant><think>\nfirst ",
            ),
        ):
            assert [response async for response in stub.Complete(request, timeout=10)]
            assert triton.seen[-1].prompt == prompt
            assert triton.seen[-1].images == 1


async def test_pieces_come_as_they_are_written_and_the_last_has_the_usage(tmp_path: Path) -> None:
    async with serving_model(tmp_path, ending) as (triton, stub):
        request = asked(
            max_tokens=2,
            stop=["x"],
            sampling=common_pb2.Sampling(temperature=0.5, top_p=0.9, seed=3),
        )
        found = [response async for response in stub.Complete(request, timeout=10)]
        assert [response.text for response in found] == ["one", " two"]
        assert [response.HasField("usage") for response in found] == [False, True]
        assert found[-1].truncated
        assert (found[-1].usage.prompt_tokens, found[-1].usage.output_tokens) == (7, 2)
        (seen,) = triton.seen
        assert seen.stream
        assert seen.parameters == {
            "max_tokens": 2,
            "stop": ["x"],
            "temperature": 0.5,
            "top_p": 0.9,
            "seed": 3,
        }


async def test_without_a_limit_the_model_writes_what_its_context_leaves(tmp_path: Path) -> None:
    async with serving_model(tmp_path, ending) as (triton, stub):
        await stub.Complete(asked(), timeout=10).read()
        # vLLM's own default would be 16.
        assert triton.seen[0].parameters["max_tokens"] > 100_000


async def test_the_generated_token_is_told_apart_from_the_likeliest(tmp_path: Path) -> None:
    # As vLLM has it: the generated token first, then the likeliest, which may be one more.
    place = {
        "5": {"logprob": -3.0, "rank": 3, "decoded_token": "five"},
        "1": {"logprob": -0.1, "rank": 1, "decoded_token": "one"},
        "2": {"logprob": -2.0, "rank": 2, "decoded_token": "two"},
    }
    async with serving_model(tmp_path, lambda _: [Say("five", "stop", logprobs=[place])]) as (triton, stub):
        (found,) = [response async for response in stub.Complete(asked(top_logprobs=2), timeout=10)]
        assert triton.seen[0].parameters["logprobs"] == 2
        (told,) = found.places
        assert (told.token.id, told.token.text, told.token.logprob) == (5, "five", -3.0)
        assert [token.text for token in told.top] == ["one", "two"]
        (found,) = [response async for response in stub.Complete(asked(top_logprobs=0), timeout=10)]
        assert found.places[0].token.text == "five"
        assert not found.places[0].top


@pytest.mark.parametrize(
    ("request_", "names"),
    [
        (asked(top_logprobs=21), "top_logprobs"),
        (asked(max_tokens=0), "max_tokens"),
        (asked(stop=[""]), "stop"),
        (asked(stop=["x"] * 17), "stop"),
        (asked(sampling=common_pb2.Sampling(temperature=3)), "sampling.temperature"),
        (asked(message(0, "x")), "messages[0].role"),
        (asked(message(USER, b"1", b"2", b"3")), "messages"),
        (asked(message(USER, b"")), "messages"),
        (asked(message(completion_pb2.CHAT_ROLE_SYSTEM, "x")), "no instructions"),
        (asked(message(USER, b"1"), continue_final_message=True), "messages"),
        (completion_pb2.CompleteRequest(continue_final_message=True), "messages"),
    ],
)
async def test_bad_fields_are_named(
    tmp_path: Path, request_: completion_pb2.CompleteRequest, names: str
) -> None:
    async with serving_model(tmp_path, ending) as (triton, stub):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Complete(request_, timeout=10).read()
        assert caught.value.code() is Code.INVALID_ARGUMENT
        assert names in str(caught.value.details())
        assert not triton.seen


async def test_a_caller_who_leaves_stops_the_model(tmp_path: Path) -> None:
    async with serving_model(tmp_path, lambda _: [Say("one"), Say("two", "stop", wait=30)]) as (triton, stub):
        call = stub.Complete(asked(), timeout=60)
        await call.read()
        call.cancel()
        await asyncio.wait_for(triton.cancelled.wait(), 10)
