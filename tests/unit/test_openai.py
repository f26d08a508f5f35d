"""The `openai` package against a gateway over real HTTP and gRPC; only the models are fakes."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import openai
import pytest

from dreamr.keys import KeyFile, Limits
from dreamr.v1 import completion_pb2
from services.common.errors import InvalidRequestError
from services.gateway.http.chat_reply import logprobs
from services.gateway.http.http_error import HttpError
from tests.unit.asking import data_uri, image_part, question
from tests.unit.fake_services import STEPS, FakeServices, busy, idle
from tests.unit.running_gateway import PAIR, Gateway, gateway

Code = grpc.StatusCode
THOUGHT = "\n\n".join(STEPS)


@asynccontextmanager
async def asked(
    parts: FakeServices | None = None, key: str = "none", **settings: Any
) -> AsyncIterator[tuple[Any, Gateway]]:
    """A client without retries, and its gateway. The package's own types are too narrow for bad requests."""
    async with (
        gateway(parts, http="127.0.0.1:0", **settings) as running,
        openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0, timeout=20) as client,
    ):
        yield client, running


async def refusal(client: Any, **changes: Any) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        await client.chat.completions.create(**{"model": "dreamr", "messages": question(), **changes})
    return caught.value


async def test_an_answer_with_its_reasoning_and_what_it_cost() -> None:
    async with asked() as (client, _):
        found = await client.chat.completions.create(model="dreamr", messages=question())
        (choice,) = found.choices
        assert (choice.message.content, choice.finish_reason) == ("42", "stop")
        assert choice.message.reasoning == choice.message.reasoning_content == THOUGHT
        assert found.usage.prompt_tokens == 7
        assert found.usage.completion_tokens == 5 * len(STEPS) + 1
        assert found.usage.completion_tokens_details.reasoning_tokens == 5 * len(STEPS)
        assert found.usage.total_tokens == 7 + 5 * len(STEPS) + 1
        assert [commit["step"]["text"] for commit in found.dreamr["commits"]] == list(STEPS)


async def test_steps_are_streamed_as_they_are_committed() -> None:
    async with asked(FakeServices(target_delay=0.2, failures={"Draft": [Code.INTERNAL] * 9})) as (client, _):
        stream = await client.chat.completions.create(
            model="dreamr", messages=question(), stream=True, stream_options={"include_usage": True}
        )
        clock = asyncio.get_running_loop().time
        chunks, times = [], []
        async for chunk in stream:
            chunks.append(chunk)
            times.append(clock())
        assert chunks[0].choices[0].delta.role == "assistant"
        pieces = [
            chunk.choices[0].delta.reasoning
            for chunk in chunks
            if chunk.choices and hasattr(chunk.choices[0].delta, "reasoning")
        ]
        assert "".join(pieces) == THOUGHT
        assert len(pieces) == len(STEPS)
        # One at a time: a step takes the target 0.2 s.
        assert times[3] - times[1] > 0.2
        contents = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
        assert "".join(filter(None, contents)) == "42"
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-1].choices == []
        assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == 5 * len(STEPS)
        session_id = chunks[0].dreamr["started"]["session_id"]
        assert {chunk.id for chunk in chunks} == {f"chatcmpl-{session_id}"}
        assert stream.response.headers["dreamr-session-id"] == session_id


async def test_the_synchronous_client_too() -> None:
    async with gateway(http="127.0.0.1:0") as running:

        def ask() -> tuple[str | None, str]:
            with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
                whole = client.chat.completions.create(model="dreamr", messages=question())
                with client.chat.completions.create(
                    model="dreamr", messages=question(), stream=True
                ) as stream:
                    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
            return whole.choices[0].message.content, "".join(pieces)

        assert await asyncio.to_thread(ask) == ("42", "42")


async def test_several_images_and_instructions_reach_the_models() -> None:
    parts = FakeServices()
    pair = PAIR.model_copy(update={"reasoning": PAIR.reasoning.model_copy(update={"max_images": 3})})
    async with asked(parts, pair=pair) as (client, _):
        uris = [data_uri(shade) for shade in (1, 2, 3)]
        messages = [
            {"role": "user", "content": [image_part(uris[0]), {"type": "text", "text": "one ?"}]},
            {"role": "system", "content": "be brief ."},
            {"role": "user", "content": [{"type": "text", "text": "two ?"}, *map(image_part, uris[1:])]},
        ]
        await client.chat.completions.create(model="dreamr", messages=messages)
        context = parts.requests["Draft"][0].context
        assert context.question == "be brief .\n\none ?\n\ntwo ?"
        assert len({image.data for image in context.images}) == 3


async def test_options_of_our_own_and_of_openai_reach_the_session() -> None:
    parts = FakeServices()
    async with asked(parts) as (client, _):
        await client.chat.completions.create(
            model="dreamr",
            messages=question(),
            temperature=0.5,
            top_p=0.9,
            seed=3,
            max_completion_tokens=40,
            extra_body={"dreamr": {"policy": "target", "max_step_tokens": 8, "answer_by": "target"}},
        )
        assert "Draft" not in parts.requests
        generate, answer = parts.requests["Generate"][0], parts.requests["Answer"][0]
        assert generate.max_step_tokens == 8
        assert (generate.sampling.temperature, generate.sampling.top_p) == (0.5, 0.9)
        assert answer.max_tokens == 10


async def test_reasoning_and_answer_keep_to_max_tokens() -> None:
    async with asked() as (client, _):
        # A quarter is the answer's: 6 tokens of reasoning end with the second step.
        found = await client.chat.completions.create(model="dreamr", messages=question(), max_tokens=8)
        assert found.choices[0].finish_reason == "length"
        assert found.usage.completion_tokens_details.reasoning_tokens == 10


async def test_an_answer_ends_before_a_stop() -> None:
    async with asked() as (client, _):
        found = await client.chat.completions.create(model="dreamr", messages=question(), stop=["x", "2"])
        assert found.choices[0].message.content == "4"
        # Whatever the reasoning ended at.
        found = await client.chat.completions.create(
            model="dreamr", messages=question(), stop="2", max_tokens=8
        )
        assert (found.choices[0].message.content, found.choices[0].finish_reason) == ("4", "stop")


@pytest.mark.parametrize("name", ["dreamr/target", "dreamr/draft"])
async def test_a_model_by_itself_goes_on_within_a_message(name: str) -> None:
    parts = FakeServices()
    async with asked(parts) as (client, _):
        found = await client.chat.completions.create(
            model=name,
            messages=[
                {"role": "system", "content": "be brief ."},
                *question(),
                {"role": "assistant", "content": "<think>\nzero ."},
            ],
            logprobs=True,
            top_logprobs=2,
            max_tokens=2,
            stop="four",
            extra_body={
                "continue_final_message": True,
                "add_generation_prompt": False,
                "chat_template_kwargs": {"enable_thinking": False},
            },
        )
        (request,) = parts.requests["Complete"]
        roles = [message.role for message in request.messages]
        assert roles == [
            completion_pb2.CHAT_ROLE_SYSTEM,
            completion_pb2.CHAT_ROLE_USER,
            completion_pb2.CHAT_ROLE_ASSISTANT,
        ]
        assert [part.WhichOneof("part") for part in request.messages[1].parts] == ["image", "text"]
        assert request.continue_final_message
        assert request.no_generation_prompt
        assert request.HasField("thinking")
        assert not request.thinking
        assert list(request.stop) == ["four"]
        (choice,) = found.choices
        assert (choice.message.content, choice.finish_reason) == ("one .two .", "length")
        places = choice.logprobs.content
        assert [place.token for place in places] == ["one .", "two ."]
        assert [one.token for one in places[0].top_logprobs] == ["one .", "é"]
        assert places[0].top_logprobs[1].bytes == list("é".encode())
        assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (7, 2)


async def test_a_model_by_itself_streams_tokens() -> None:
    async with asked() as (client, _):
        stream = await client.chat.completions.create(
            model="dreamr/draft", messages=question(), stream=True, logprobs=True
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "".join(STEPS)
        places = [chunk.choices[0].logprobs.content for chunk in chunks if chunk.choices[0].logprobs]
        assert [place.token for (place,) in places] == list(STEPS)
        assert chunks[-1].choices[0].finish_reason == "stop"


async def test_models_are_listed() -> None:
    async with asked() as (client, _):
        names = [model.id async for model in await client.models.list()]
        assert names == ["dreamr", "dreamr/target", "dreamr/draft"]
        assert (await client.models.retrieve("dreamr/target")).id == "dreamr/target"
        with pytest.raises(openai.NotFoundError) as caught:
            await client.models.retrieve("other")
        assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"extra_body": {"foo": 1}}, "foo"),
        ({"extra_body": {"foo bar": 1}}, "foo bar"),
        ({"extra_body": {"stream_options": {"foo": 1}}}, "stream_options.foo"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"logprobs": True}, "logprobs"),
        ({"extra_body": {"continue_final_message": True}}, "continue_final_message"),
        ({"extra_body": {"timeout": -1}}, "timeout"),
        ({"extra_headers": {"dreamr-timeout": "soon"}}, "dreamr-timeout"),
        ({"extra_body": {"dreamr": {"window": 99}}}, "dreamr.window"),
        ({"extra_body": {"dreamr": {"widnow": 9}}}, "dreamr.widnow"),
        ({"extra_body": {"dreamr": {"policy": "none"}}}, "dreamr.policy"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "x", "foo": 1}]}, "messages[0].foo"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "foo": 1}]}]},
            "messages[0].content[0].foo",
        ),
        ({"extra_headers": {"idempotency-key": "x" * 129}}, "idempotency-key"),
        ({"extra_body": {"dreamr": {"alpha": "1e999"}}}, "dreamr.alpha"),
        ({"messages": "what ?"}, "messages"),
        ({"messages": [{"role": "user", "content": "what ?"}]}, "messages"),
        ({"messages": question(" ")}, "messages"),
        ({"messages": [*question(), {"role": "assistant", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[0].role"),
        ({"messages": question("?", "https://example.org/x.png")}, "messages[0].content[0].image_url.url"),
        ({"messages": question("?", "data:image/png,abc")}, "messages[0].content[0].image_url.url"),
        ({"messages": question("?", "data:image/png;base64,a*")}, "messages[0].content[0].image_url.url"),
        ({"messages": question("?", "data:image/png;base64,aGVsbG8=")}, "messages"),
        ({"model": "dreamr/draft", "extra_body": {"dreamr": {"window": 1}}}, "dreamr"),
        ({"model": "dreamr/draft", "top_logprobs": 2}, "top_logprobs"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_name(changes: dict[str, Any], param: str) -> None:
    async with asked() as (client, running):
        error = await refusal(client, **changes)
        assert isinstance(error, openai.BadRequestError)
        assert error.param == param
        assert error.type == "invalid_request_error"
        assert isinstance(error.body, dict)
        assert (
            error.body["message"].startswith(param.partition("[")[0].partition(".")[0]) or param == "messages"
        )
        assert running.parts.calls == 0


async def test_what_clients_send_as_a_matter_of_course_does_no_harm() -> None:
    async with asked() as (client, _):
        found = await client.chat.completions.create(
            model="dreamr",
            messages=question(),
            n=1,
            user="me",
            metadata={"a": "b"},
            store=False,
            service_tier="auto",
            presence_penalty=0,
            frequency_penalty=0.0,
            logit_bias={},
            response_format={"type": "text"},
            tools=[],
            tool_choice="none",
            parallel_tool_calls=True,
            extra_body={
                "logprobs": False,
                "stream_options": {"include_usage": None, "include_obfuscation": False},
            },
        )
        assert found.choices[0].message.content == "42"


async def test_messages_as_other_programs_write_them_are_taken() -> None:
    parts = [
        {"type": "text", "text": "what ?", "cache_control": None},
        {
            "type": "image_url",
            "image_url": {"url": data_uri(), "detail": "original"},
            "cache_control": {"a": 1},
        },
    ]
    before = {"tool_calls": [], "function_call": None, "refusal": None, "reasoning_details": [{"text": "x"}]}
    async with asked() as (client, _):
        found = await client.chat.completions.create(
            model="dreamr/target",
            messages=[
                {"role": "user", "content": parts, "name": "me"},
                {"role": "assistant", "content": "42", "reasoning": "x", **before},
            ],
        )
        assert found.choices[0].message.content == "".join(STEPS)


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("model", ["dreamr", "dreamr/target"])
async def test_who_hangs_up_has_everything_cancelled(streams: bool, model: str) -> None:
    parts = busy()
    async with asked(parts) as (client, running), idle(parts, 10):
        call = asyncio.create_task(
            client.chat.completions.create(model=model, messages=question(), stream=streams)
        )
        async with asyncio.timeout(10):
            while not parts.running:  # noqa: ASYNC110 - the other side of a socket
                await asyncio.sleep(0.005)
            if streams and model == "dreamr":
                await (await call).close()
            else:
                # A model's stream begins with its first token.
                call.cancel()
                await asyncio.wait([call])
            while not parts.cancelled:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert running.service.entrance.admission.waiting == 0
    assert parts.cancelled == ["Complete" if model != "dreamr" else "Generate"]


@pytest.mark.parametrize("model", ["dreamr", "dreamr/draft"])
@pytest.mark.parametrize("how", ["extra_body", "extra_headers"])
async def test_a_deadline_is_kept(model: str, how: str) -> None:
    parts = busy()
    given = {"timeout": 0.3} if how == "extra_body" else {"dreamr-timeout": "0.3"}
    async with asked(parts) as (client, _), idle(parts, 10):
        error = await refusal(client, model=model, **{how: given})
        assert (error.status_code, error.code) == (504, "timeout")
        # The same again would end the same way.
        assert error.response.headers["x-should-retry"] == "false"
        # gRPC rounds what it sends up.
        assert max(parts.seconds_left) < 0.31


async def test_what_fails_in_the_middle_of_a_stream_is_told_there() -> None:
    parts = FakeServices(breaks=[1] * 9, failures={"Draft": [Code.INTERNAL] * 9})
    async with asked(parts) as (client, _):
        stream = await client.chat.completions.create(model="dreamr", messages=question(), stream=True)
        heard = [await anext(stream) for _ in range(2)]
        with pytest.raises(openai.APIError, match="keeps 1 committed steps") as caught:
            await anext(stream)
        assert heard[1].choices[0].delta.reasoning == STEPS[0]
        assert caught.value.code == "unavailable"


async def test_a_model_that_is_down_is_asked_at_another_replica_only_before_it_has_spoken() -> None:
    parts = FakeServices(failures={"Complete": [Code.UNAVAILABLE]})
    async with asked(parts) as (client, _):
        error = await refusal(client, model="dreamr/target")
        assert (error.status_code, error.code) == (503, "unavailable")
        found = await client.chat.completions.create(model="dreamr/target", messages=question())
        assert found.choices[0].message.content == "".join(STEPS)


async def test_the_same_keys_limits_and_budgets_as_over_grpc(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with KeyFile.changed(path) as keys:
        secret = keys.add("ci")
        keys.callers["ci"] = Limits(tokens_per_minute=1)
    async with asked(key=secret, keys=path) as (client, running):
        await client.chat.completions.create(model="dreamr", messages=question())
        for model in ("dreamr", "dreamr/draft"):
            error = await refusal(client, model=model)
            assert isinstance(error, openai.RateLimitError)
            assert 0 < int(error.response.headers["retry-after"]) <= 60 * (5 * len(STEPS) + 1)
            assert error.type == "rate_limit_error"
        assert "Complete" not in running.parts.requests
        # What was used over HTTP is used over gRPC.
        with pytest.raises(grpc.aio.AioRpcError, match="1 a minute"):
            await running.reason(key=secret)
        for wrong in ("none", f"{secret}x"):
            error = await refusal(client.with_options(api_key=wrong))
            assert isinstance(error, openai.AuthenticationError)
            assert error.code == "invalid_api_key"
            with pytest.raises(openai.AuthenticationError):
                await client.with_options(api_key=wrong).models.list()


async def test_tokens_of_a_model_by_itself_are_paid_for(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with KeyFile.changed(path) as keys:
        secret = keys.add("ci")
        keys.callers["ci"] = Limits(tokens_per_minute=2)
    async with asked(key=secret, keys=path) as (client, _):
        await client.chat.completions.create(model="dreamr/target", messages=question())
        assert isinstance(await refusal(client), openai.RateLimitError)


async def test_a_full_gateway_says_so() -> None:
    parts = busy()
    async with asked(parts, max_sessions=1, max_waiting=0) as (client, _), idle(parts, 10):
        first = await client.chat.completions.create(model="dreamr", messages=question(), stream=True)
        for model in ("dreamr", "dreamr/target"):
            error = await refusal(client, model=model)
            assert isinstance(error, openai.RateLimitError)
            assert int(error.response.headers["retry-after"]) >= 1
        await first.close()


async def test_a_request_that_is_sent_twice_is_worked_on_once() -> None:
    parts = FakeServices()
    async with asked(parts) as (client, _):
        headers = {"idempotency-key": "the same"}
        answers = [
            await client.chat.completions.create(model="dreamr", messages=question(), extra_headers=headers)
            for _ in range(2)
        ]
        assert len({answer.id for answer in answers}) == 1
        assert answers[0].choices == answers[1].choices
        assert len(parts.requests["Draft"]) == 1


async def test_activity_is_streamed_where_it_is_asked_for() -> None:
    async with asked() as (client, _):
        stream = await client.chat.completions.create(
            model="dreamr", messages=question(), stream=True, extra_body={"dreamr": {"activity": True}}
        )
        told = [chunk.dreamr async for chunk in stream if hasattr(chunk, "dreamr")]
        assert any("activity" in one for one in told)
        assert json.dumps(told)


async def test_openais_own_client_does_not_repeat_what_took_too_long() -> None:
    parts = busy()
    async with asked(parts) as (client, _), idle(parts, 10):
        patient = client.with_options(max_retries=2)
        await refusal(patient, model="dreamr/target", extra_body={"timeout": 0.2})
        assert len(parts.requests["Complete"]) == 1


async def test_who_hangs_up_pays_for_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with KeyFile.changed(path) as keys:
        secret = keys.add("ci")
        keys.callers["ci"] = Limits(tokens_per_minute=1)
    parts = FakeServices(steps=("one .",) * 100, target_delay=0.05)
    async with asked(parts, key=secret, keys=path) as (client, _), idle(parts, 10):
        with pytest.raises(openai.APITimeoutError):
            await client.with_options(timeout=0.5).chat.completions.create(
                model="dreamr/target", messages=question()
            )
        assert isinstance(await refusal(client), openai.RateLimitError)


def test_a_prompt_that_is_too_long_has_openais_code() -> None:
    message = "The decoder prompt (length 900) is longer than the maximum model length of 512."
    found = HttpError.of(InvalidRequestError(message))
    assert (found.status, found.param, found.code) == (400, "messages", "context_length_exceeded")


def test_a_token_that_could_not_come_has_openais_logprob() -> None:
    impossible = completion_pb2.TokenLogprob(text="x", logprob=-math.inf)
    unknown = completion_pb2.TokenLogprob(text="y", logprob=math.nan)
    found = logprobs([completion_pb2.TokenPlace(token=impossible, top=[unknown])])
    assert found["content"][0]["logprob"] == found["content"][0]["top_logprobs"][0]["logprob"] == -9999
    json.dumps(found, allow_nan=False)
