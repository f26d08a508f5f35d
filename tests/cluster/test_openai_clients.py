"""OpenAI clients that others wrote, against a real cluster: the `openai` package, AIPerf and curl."""

import asyncio
import base64
import json
import math
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio

from bench.curl import transcript
from bench.models import at_rest
from bench.questions import Question, held_out
from dreamr.client import AsyncClient
from dreamr.cluster.cluster import Cluster
from dreamr.cluster.triton import MODELS

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session")]

QUESTIONS = held_out(6, seed=31)
AIPERF = MODELS.parent / ".cache/aiperf/bin/aiperf"


def messages(asked: Question) -> list[Any]:
    url = f"data:image/png;base64,{base64.b64encode(asked.image).decode()}"
    return [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": url}},
                {"type": "text", "text": asked.text},
            ],
        }
    ]


@pytest_asyncio.fixture(loop_scope="session")
async def asking(cluster: Cluster) -> AsyncIterator[Any]:
    """The package's own types are too narrow for what a request may have beside them."""
    async with openai.AsyncOpenAI(
        base_url=f"http://{cluster.http[0]}/v1", api_key="none", timeout=60
    ) as client:
        yield client


async def test_the_package_gets_what_grpc_gets(asking: Any, client: AsyncClient) -> None:
    for asked in QUESTIONS[:2]:
        policy = {"dreamr": {"policy": "target"}}
        whole = await asking.chat.completions.create(
            model="dreamr", messages=messages(asked), extra_body=policy
        )
        stream = await asking.chat.completions.create(
            model="dreamr", messages=messages(asked), stream=True, extra_body=policy
        )
        deltas = [chunk.choices[0].delta async for chunk in stream]
        expected = await client.ask(asked.text, images=[asked.image], policy="target")
        steps = [step.text for step in expected.steps]
        message = whole.choices[0].message
        assert message.content == expected.answer
        assert message.reasoning == "\n\n".join(steps)
        assert "".join(getattr(delta, "reasoning_content", "") for delta in deltas) == message.reasoning
        assert "".join(delta.content or "" for delta in deltas) == expected.answer
        assert whole.usage.prompt_tokens > 0


async def test_the_synchronous_package_with_speculation(cluster: Cluster) -> None:
    def ask() -> Any:
        with openai.OpenAI(base_url=f"http://{cluster.http[0]}/v1", api_key="none") as client:
            return client.chat.completions.create(model="dreamr", messages=messages(QUESTIONS[0]))

    found = await asyncio.to_thread(ask)
    assert found.choices[0].message.content.isdecimal()
    assert found.dreamr["finished"]["totals"]["steps_by_draft"] > 0


@pytest.mark.parametrize("model", ["dreamr/target", "dreamr/draft"])
async def test_a_model_by_itself_goes_on_from_where_it_was(asking: Any, model: str) -> None:
    asked = messages(QUESTIONS[0])
    whole = await asking.chat.completions.create(model=model, messages=asked, max_tokens=24)
    text = whole.choices[0].message.content
    assert (whole.choices[0].finish_reason, whole.usage.completion_tokens) == ("length", 24)
    # The same by its first words, which are given back to it.
    begun = await asking.chat.completions.create(model=model, messages=asked, max_tokens=9)
    first = begun.choices[0].message.content
    assert text.startswith(first)
    rest = await asking.chat.completions.create(
        model=model,
        messages=[*asked, {"role": "assistant", "content": f"<think>\n{first}"}],
        max_tokens=15,
        logprobs=True,
        top_logprobs=5,
        extra_body={"continue_final_message": True, "add_generation_prompt": False},
    )
    assert first + rest.choices[0].message.content == text
    assert rest.usage.prompt_tokens == begun.usage.prompt_tokens + 9
    places = rest.choices[0].logprobs.content
    assert "".join(place.token for place in places) == rest.choices[0].message.content
    for place in places:
        likely = [token.logprob for token in place.top_logprobs]
        assert len(likely) == 5
        assert likely == sorted(likely, reverse=True)
        # Greedy: the likeliest was taken, and all together are no more than certain.
        assert place.logprob == likely[0]
        assert sum(map(math.exp, likely)) <= 1 + 1e-6


async def test_a_stop_ends_a_model_by_itself(asking: Any) -> None:
    found = await asking.chat.completions.create(
        model="dreamr/target", messages=messages(QUESTIONS[0]), stop="\n\n"
    )
    (choice,) = found.choices
    assert choice.finish_reason == "stop"
    assert choice.message.content.startswith("step 1")
    assert "\n" not in choice.message.content


async def test_what_a_model_cannot_take_is_told(asking: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="user and assistant only"):
        await asking.chat.completions.create(
            model="dreamr/target", messages=[{"role": "system", "content": "x"}, *messages(QUESTIONS[0])]
        )
    with pytest.raises(openai.BadRequestError, match="max_model_len"):
        await asking.chat.completions.create(
            model="dreamr/draft", messages=[{"role": "user", "content": "x " * 2000}]
        )


@pytest.mark.parametrize("model", ["dreamr", "dreamr/target"])
async def test_who_hangs_up_stops_the_models(asking: Any, cluster: Cluster, model: str) -> None:
    where = cluster.triton.metrics_address
    whole = await asking.chat.completions.create(model=model, messages=messages(QUESTIONS[0]))
    before = (await at_rest(where))["target"].generated_tokens
    for _ in range(4):
        stream = await asking.chat.completions.create(
            model=model, messages=messages(QUESTIONS[0]), stream=True
        )
        await anext(stream)
        await stream.close()
    after = (await at_rest(where))["target"].generated_tokens
    # They stopped because they were left, not because they had come to their ends.
    assert after - before < 4 * whole.usage.completion_tokens


@pytest.mark.clients
async def test_aiperf_measures_the_cluster(cluster: Cluster, tmp_path: Path) -> None:
    lines = []
    for index, asked in enumerate(QUESTIONS):
        path = tmp_path / f"{index}.png"
        path.write_bytes(asked.image)
        lines.append(json.dumps({"text": asked.text, "image": str(path)}))
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    for model in ("dreamr", "dreamr/target"):
        out = tmp_path / model.replace("/", "-")
        run = await asyncio.to_thread(
            subprocess.run,
            [
                *(AIPERF, "profile", "--model", model, "--url", f"http://{cluster.http[0]}"),
                *("--endpoint-type", "chat", "--streaming", "--concurrency", "2", "--request-count", "12"),
                # A local folder: nothing is asked of a model hub.
                *("--tokenizer", MODELS / "repository/target/1/weights", "--ui", "simple"),
                *("--input-file", tmp_path / "questions.jsonl", "--custom-dataset-type", "single_turn"),
                *("--no-gpu-telemetry", "--no-server-metrics", "--artifact-dir", out),
            ],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        found = json.loads((out / "profile_export_aiperf.json").read_text())
        assert found["request_count"]["avg"] == 12
        assert not found["error_summary"]
        assert found["usage_completion_tokens"]["min"] > 0
        if model == "dreamr":
            assert found["usage_reasoning_tokens"]["min"] > 0


@pytest.mark.clients
async def test_curl_is_answered(cluster: Cluster, tmp_path: Path) -> None:
    url = f"http://{cluster.http[0]}"
    shown = await transcript(url, QUESTIONS[0], tmp_path)
    assert '{"status":"serving"}' in shown
    assert '"reasoning_content": "step 1' in shown
    assert "data: [DONE]" in shown
    assert '"top_logprobs": [' in shown
    assert shown.rstrip().endswith("400")
