"""The `transformers` backend in a real Triton server: what callers of the vLLM backend's tensors rely on."""

import asyncio
import io
import json
import math
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from dreamr.cluster.triton import TritonServer, TritonStartError
from tests.cluster.triton_calls import Answer, Caller, ModelError, picture
from tests.tiny_model import make_tiny_model

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module")]

CONFIG = 'backend: "transformers"\ninstance_group [ { count: 1 kind: KIND_MODEL } ]\n'
PARAMETER = 'parameters {{ key: "{}" value {{ string_value: "{}" }} }}\n'
PROMPT = "<|user|><image>what is the step ?<|end|><|assistant|><think>\n"


def add_model(repository: Path, name: str, settings: dict[str, Any], **parameters: int) -> None:
    (repository / name / "1").mkdir(parents=True)
    parameters = {"INTRA_OP_THREAD_COUNT": 1, **parameters}
    text = CONFIG + "".join(PARAMETER.format(key, value) for key, value in parameters.items())
    (repository / name / "config.pbtxt").write_text(text)
    (repository / name / "1" / "model.json").write_text(json.dumps({"dtype": "float32", **settings}))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def caller(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Caller]:
    repository = tmp_path_factory.mktemp("repository")
    big = make_tiny_model(tmp_path_factory.mktemp("big"), layers=6, hidden=384, max_positions=4096)
    broken = make_tiny_model(tmp_path_factory.mktemp("broken"), missing_tokens=20)
    add_model(repository, "tiny", {"model": str(tiny)}, MAX_IMAGE_PIXELS=100_000, MAX_IMAGE_BYTES=1_000_000)
    add_model(repository, "plain", {"model": str(tiny), "enable_prefix_caching": False})
    add_model(repository, "slow", {"model": str(big), "max_num_seqs": 2}, MAX_QUEUE_SIZE=3)
    add_model(repository, "broken", {"model": str(broken)})
    log = tmp_path_factory.mktemp("log") / "triton.log"
    async with TritonServer(repository, log_path=log) as server:
        caller = Caller(server.grpc_address, server.metrics_address)
        yield caller
        await caller.close()


class Reference:
    """The same model through transformers alone."""

    def __init__(self, folder: Path) -> None:
        self.processor: Any = AutoProcessor.from_pretrained(folder)
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()

    def inputs(self, text: str, images: list[bytes]) -> Any:
        opened = [Image.open(io.BytesIO(image)) for image in images]
        return self.processor(text=[text], images=[opened] if opened else None, return_tensors="pt")

    @torch.inference_mode()
    def generate(self, text: str, images: list[bytes], count: int) -> tuple[list[int], str]:
        inputs = self.inputs(text, images)
        out = self.model.generate(**inputs, max_new_tokens=count, do_sample=False)
        tokens = out[0, inputs["input_ids"].shape[1] :].tolist()
        return tokens, str(self.processor.tokenizer.decode(tokens, skip_special_tokens=True))

    @torch.inference_mode()
    def logprobs(self, text: str, images: list[bytes]) -> torch.Tensor:
        logprobs: torch.Tensor = self.model(**self.inputs(text, images)).logits[0, -1].log_softmax(-1)
        return logprobs


@pytest.fixture(scope="module")
def reference(tiny: Path) -> Reference:
    return Reference(tiny)


def above(low: float) -> Callable[[float], bool]:
    return lambda value: value > low


async def code_of(answer: Any) -> tuple[str, str]:
    with pytest.raises(ModelError) as caught:
        await answer
    return caught.value.code, caught.value.message


async def test_greedy_output_is_what_the_model_generates(caller: Caller, reference: Reference) -> None:
    for shade in (3, 11):
        tokens, text = reference.generate(PROMPT, [picture(shade)], 40)
        answer = await caller.generate("tiny", PROMPT, [picture(shade)], temperature=0, max_tokens=40)
        assert answer.text == text
        assert answer.tokens == len(tokens)
        assert answer.finish_reason == ("length" if len(tokens) == 40 else "stop")
        assert (
            answer.outputs[0]["num_input_tokens"]
            == reference.inputs(PROMPT, [picture(shade)])["input_ids"].shape[1]
        )


async def test_deltas_of_a_stream_add_up_to_the_whole_text(caller: Caller) -> None:
    whole = await caller.generate("tiny", PROMPT, [picture(3)], temperature=0, max_tokens=40, ignore_eos=True)
    parts = await caller.generate(
        "tiny", PROMPT, [picture(3)], stream=True, temperature=0, max_tokens=40, ignore_eos=True
    )
    assert len(whole.outputs) == 1
    assert len(parts.outputs) > 1
    assert parts.text == whole.text
    assert parts.tokens == whole.tokens == 40
    assert [output["finish_reason"] for output in parts.outputs[:-1]] == ["None"] * (len(parts.outputs) - 1)
    assert parts.finish_reason == "length"


async def test_a_stop_string_ends_the_text_and_is_never_shown_in_part(caller: Caller) -> None:
    whole = await caller.generate("tiny", PROMPT, [picture(5)], temperature=0, max_tokens=40, ignore_eos=True)
    stop = whole.text[11:14]
    at = whole.text.index(stop)
    for stream in (False, True):
        for include in (False, True):
            answer = await caller.generate(
                "tiny",
                PROMPT,
                [picture(5)],
                stream=stream,
                temperature=0,
                max_tokens=40,
                ignore_eos=True,
                stop=["never so", stop],
                include_stop_str_in_output=include,
            )
            assert answer.text == whole.text[: at + len(stop) * include]
            assert answer.finish_reason == "stop"


async def test_logprobs_are_those_of_the_model(caller: Caller, reference: Reference) -> None:
    expected = reference.logprobs(PROMPT, [picture(7)])
    answer = await caller.generate("tiny", PROMPT, [picture(7)], temperature=0, max_tokens=1, logprobs=20)
    (found,) = answer.logprobs
    assert set(found) == set(expected.topk(20).indices.tolist())
    assert sorted(entry["rank"] for entry in found.values()) == list(range(1, 21))
    for token, entry in found.items():
        assert entry["logprob"] == pytest.approx(float(expected[token]), abs=1e-4)
        assert entry["decoded_token"] == reference.processor.tokenizer.decode([token])
    assert answer.outputs[0]["cumulative_logprob"] == pytest.approx(float(expected.max()), abs=1e-4)


async def test_a_sampled_token_has_its_logprob_even_outside_the_top(caller: Caller) -> None:
    answer = await caller.generate(
        "tiny", PROMPT, [picture(7)], temperature=5.0, seed=1, max_tokens=30, logprobs=1, ignore_eos=True
    )
    assert len(answer.logprobs) == 30
    assert {len(entry) for entry in answer.logprobs} <= {1, 2}
    assert any(next(iter(entry.values()))["rank"] > 1 for entry in answer.logprobs)
    total = sum(next(iter(entry.values()))["logprob"] for entry in answer.logprobs)
    assert answer.outputs[-1]["cumulative_logprob"] == pytest.approx(total, abs=1e-3)
    assert all(math.isfinite(value["logprob"]) for entry in answer.logprobs for value in entry.values())


async def test_a_seed_repeats_and_another_differs(caller: Caller) -> None:
    async def sample(seed: int) -> str:
        found = await caller.generate(
            "tiny", PROMPT, [picture(1)], temperature=1.0, top_p=0.9, seed=seed, max_tokens=30
        )
        return found.text

    first, again, other = await asyncio.gather(sample(1), sample(1), sample(2))
    assert first == again != other


async def test_a_shared_prefix_changes_nothing_but_the_work(caller: Caller) -> None:
    """Judging extends a reasoning prompt: tokens and log-probabilities are as without reuse."""
    image = [picture(9)]
    reasoning = PROMPT + "the step is the step" * 5 + "\n\n"
    await caller.generate("tiny", reasoning, image, temperature=0, max_tokens=20)
    await asyncio.sleep(0.5)  # counts are passed on every 50 ms
    computed = await caller.metric("prompt_tokens_total", "tiny")
    hits = await caller.metric("prefix_cache_hit_tokens_total", "tiny")
    judge = reasoning + "42 is the step\n\n<|end|><|user|>positive or negative ?<|end|><|assistant|>"
    params: dict[str, Any] = {"temperature": 0, "max_tokens": 1, "logprobs": 20}
    shared = await caller.generate("tiny", judge, image, **params)
    alone = await caller.generate("plain", judge, image, **params)
    assert shared.logprobs[0].keys() == alone.logprobs[0].keys()
    for token, entry in shared.logprobs[0].items():
        assert entry["logprob"] == pytest.approx(alone.logprobs[0][token]["logprob"], abs=1e-4)
    inputs = shared.outputs[0]["num_input_tokens"]
    reused = await caller.until("prefix_cache_hit_tokens_total", "tiny", lambda value: value > hits) - hits
    assert reused > inputs / 2
    assert await caller.metric("prompt_tokens_total", "tiny") - computed == inputs - reused
    assert await caller.metric("prefix_cache_bytes", "tiny") > 0
    # Another image in the same text is another prefix.
    expected = await caller.generate("plain", judge, [picture(200)], **params)
    found = await caller.generate("tiny", judge, [picture(200)], **params)
    for token, entry in found.logprobs[0].items():
        assert entry["logprob"] == pytest.approx(expected.logprobs[0][token]["logprob"], abs=1e-4)


async def test_a_score_shares_the_prefix_of_a_request_that_still_decodes(caller: Caller) -> None:
    prompt = "<|user|>" + "a long question " * 20 + "<|end|><|assistant|>"
    rival = asyncio.create_task(
        caller.generate("slow", prompt, temperature=0, max_tokens=300, ignore_eos=True)
    )
    await caller.until("num_requests_running", "slow", lambda value: value == 1)
    hits = await caller.metric("prefix_cache_hit_tokens_total", "slow")
    await caller.generate("slow", prompt + " negative", temperature=0, max_tokens=1, logprobs=5)
    assert not rival.done()
    await caller.until("prefix_cache_hit_tokens_total", "slow", lambda value: value >= hits + 300)
    answer = await rival
    assert answer.tokens == 300


async def test_many_at_once_with_images_get_each_their_own(caller: Caller, reference: Reference) -> None:
    wanted = {shade: reference.generate(PROMPT, [picture(shade)], 20)[1] for shade in range(10, 18)}
    assert len(set(wanted.values())) > 1
    two = PROMPT.replace("<image>", "<image><image>")
    answers = await asyncio.gather(
        *(
            caller.generate("tiny", PROMPT, [picture(shade)], temperature=0, max_tokens=20)
            for shade in wanted
        ),
        caller.generate("tiny", two, [picture(1), picture(2)], temperature=0, max_tokens=20),
        caller.generate("tiny", two, [picture(2), picture(1)], temperature=0, max_tokens=20),
    )
    assert [answer.text for answer in answers[:8]] == list(wanted.values())
    assert answers[8].text == reference.generate(two, [picture(1), picture(2)], 20)[1]
    assert answers[9].text == reference.generate(two, [picture(2), picture(1)], 20)[1]


async def cancel_and_measure(caller: Caller, task: "asyncio.Task[Answer]") -> float:
    """Cancel a request of `slow`; seconds from then to the last token that the model computed."""
    at = time.time()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await caller.until("num_requests_running", "slow", lambda value: value == 0)
    generated = await caller.metric("generation_tokens_total", "slow")
    await asyncio.sleep(0.2)
    assert await caller.metric("generation_tokens_total", "slow") == generated
    return await caller.metric("last_token_timestamp_seconds", "slow") - at


async def test_cancelling_stops_decoding_at_once(caller: Caller) -> None:
    for stream in (False, True):
        before = await caller.metric("generation_tokens_total", "slow")
        cancelled = await caller.metric("requests_cancelled_total", "slow")
        task = asyncio.create_task(
            caller.generate(
                "slow", "<|user|>go on", stream=stream, temperature=0, max_tokens=3000, ignore_eos=True
            )
        )
        await caller.until("generation_tokens_total", "slow", above(before + 10))
        assert await cancel_and_measure(caller, task) < 0.1
        assert await caller.metric("requests_cancelled_total", "slow") == cancelled + 1


async def test_cancelling_stops_a_prefill_between_its_pieces(caller: Caller) -> None:
    computed = await caller.metric("prompt_tokens_total", "slow")
    text = "<|user|>" + "".join(chr(33 + index * 7 % 90) for index in range(4000))
    task = asyncio.create_task(caller.generate("slow", text, temperature=0, max_tokens=10))
    await caller.until("num_requests_running", "slow", lambda value: value == 1)
    await cancel_and_measure(caller, task)
    assert await caller.metric("prompt_tokens_total", "slow") - computed < 4000


async def test_the_queue_is_bounded_and_waiting_requests_can_be_cancelled(caller: Caller) -> None:
    def begin() -> "asyncio.Task[Answer]":
        return asyncio.create_task(
            caller.generate("slow", "<|user|>go on", temperature=0, max_tokens=3000, ignore_eos=True)
        )

    running = [begin(), begin()]
    await caller.until("num_requests_running", "slow", lambda value: value == 2)
    waiting = [begin() for _ in range(3)]
    await caller.until("num_requests_waiting", "slow", lambda value: value == 3)
    code, message = await code_of(begin())
    assert code == "UNAVAILABLE"
    assert "MAX_QUEUE_SIZE" in message
    for task in waiting:
        task.cancel()
    await caller.until("num_requests_waiting", "slow", lambda value: value == 0)
    assert not any(task.done() for task in running)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, *waiting, return_exceptions=True)
    await caller.until("num_requests_running", "slow", lambda value: value == 0)
    answer = await caller.generate("slow", "<|user|>go on", temperature=0, max_tokens=2, ignore_eos=True)
    assert answer.tokens == 2


async def test_a_failure_of_the_model_is_an_error_of_that_request_alone(caller: Caller) -> None:
    good = caller.generate("broken", "<|user|>012", temperature=0, max_tokens=50, ignore_eos=True)
    bad = caller.generate("broken", "<|user|>~~~", temperature=0, max_tokens=5)
    answer, error = await asyncio.gather(good, bad, return_exceptions=True)
    assert isinstance(answer, Answer)
    assert answer.tokens == 50
    assert isinstance(error, ModelError)
    assert error.code == "INTERNAL"
    assert "IndexError" in error.message
    await caller.until("requests_failed_total", "broken", lambda value: value == 1)
    await caller.until("num_requests_running", "broken", lambda value: value == 0)


BOMB = picture(1, side=400)
TRUNCATED = picture(1)[:60]


async def test_many_failures_at_once_leave_the_server_alive(caller: Caller) -> None:
    for _ in range(5):
        codes = await asyncio.gather(*(code_of(caller.generate("tiny", " ")) for _ in range(40)))
        assert {code for code, _ in codes} == {"INVALID_ARGUMENT"}
    assert (
        await caller.generate("tiny", "<|user|>x", temperature=0, max_tokens=2, ignore_eos=True)
    ).tokens == 2


@pytest.mark.parametrize(
    ("text", "images", "params", "words"),
    [
        ("  ", [], {}, ["text_input", "empty"]),
        ("x" * 600, [], {}, ["text_input", "max_model_len", "512"]),
        ("x" * 100_000, [], {}, ["text_input", "max_model_len", "512"]),
        (PROMPT, [], {}, ["image", "placeholder"]),
        ("no place", [picture(1)], {}, ["image", "placeholder"]),
        (PROMPT, [b"no image at all"], {}, ["image 0", "decode"]),
        (PROMPT, [TRUNCATED], {}, ["image 0", "decode"]),
        (PROMPT, [BOMB], {}, ["image 0", "400x400", "100000"]),
        (PROMPT, [os.urandom(1_100_000)], {}, ["image 0", "1000000 bytes"]),
        ("<image>" * 9, [picture(1)] * 9, {}, ["9 images", "8"]),
        ("x", [], {"max_tokens": 0}, ["max_tokens", "a whole number from 1"]),
        ("x", [], {"temperature": -1}, ["temperature"]),
        ("x", [], {"top_p": 0}, ["top_p"]),
        ("x", [], {"logprobs": 21}, ["logprobs", "from 0 to 20"]),
        ("x", [], {"stop": [""]}, ["stop"]),
        ("x", [], {"beams": 3}, ["beams", "unknown"]),
        ("x", [], {"parameters": "{"}, ["sampling_parameters", "JSON"]),
    ],
)
async def test_bad_input_is_refused_with_the_field_and_the_limit(
    caller: Caller, text: str, images: list[bytes], params: dict[str, Any], words: list[str]
) -> None:
    code, message = await code_of(caller.generate("tiny", text, images, **params))
    assert code == "INVALID_ARGUMENT"
    for word in words:
        assert word in message


async def test_text_that_is_no_base64_is_refused(caller: Caller) -> None:
    code, message = await code_of(caller.generate("tiny", PROMPT, encoded_images=[b"***"]))
    assert code == "INVALID_ARGUMENT"
    assert "base64" in message


async def test_outputs_come_only_when_asked_and_the_input_as_in_vllm(caller: Caller) -> None:
    bare = await caller.generate(
        "tiny", "<|user|>abc", returns=(), exclude_input=None, temperature=0, max_tokens=3
    )
    assert bare.outputs == [{}]
    assert bare.text.startswith("<|user|>abc")
    streamed = await caller.generate(
        "tiny", "<|user|>abc", stream=True, exclude_input=None, temperature=0, max_tokens=3
    )
    assert bare.text == "<|user|>abc" + streamed.text
    code, message = await code_of(caller.generate("tiny", "abc", stream=True, exclude_input=False))
    assert code == "INVALID_ARGUMENT"
    assert "exclude_input_in_output" in message


async def test_without_parameters_the_defaults_are_those_of_vllm(caller: Caller) -> None:
    answer = await caller.generate("tiny", "<|user|>abc", temperature="0", ignore_eos=True)
    assert answer.tokens == 16
    assert answer.outputs[0]["logprobs"] == "null"


def regions(server: TritonServer) -> list[str]:
    return [name for name in os.listdir("/dev/shm") if name.startswith(server.region_prefix)]


async def test_a_server_that_cannot_start_says_why_and_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    add_model(tmp_path, "wrong", {"model": str(tiny), "max_model_length": 7})
    server = TritonServer(tmp_path)
    with pytest.raises(TritonStartError, match=r"unknown key.* max_model_length"):
        await server.start()
    assert server.pid is None
    assert regions(server) == []


async def test_stopping_leaves_no_process_and_no_shared_memory(tiny: Path, tmp_path: Path) -> None:
    add_model(tmp_path, "tiny", {"model": str(tiny)})
    server = TritonServer(tmp_path, models=["tiny"])
    await server.start()
    group = server.pid
    assert group is not None
    assert regions(server)
    caller = Caller(server.grpc_address, server.metrics_address)
    task = asyncio.create_task(
        caller.generate("tiny", "<|user|>go", temperature=0, max_tokens=500, ignore_eos=True, stream=True)
    )
    await asyncio.sleep(0.05)
    await server.stop()
    await asyncio.gather(task, return_exceptions=True)
    await caller.close()
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)
    assert regions(server) == []


ORPHAN = """
import asyncio, os, signal, sys
from pathlib import Path
from dreamr.cluster.triton import TritonServer

async def main():
    server = TritonServer(Path(sys.argv[1]))
    await server.start()
    print(server.pid, server.region_prefix, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_a_server_ends_when_its_starter_is_killed(tiny: Path, tmp_path: Path) -> None:
    repository, scratch = tmp_path / "repository", tmp_path / "scratch"
    add_model(repository, "tiny", {"model": str(tiny)})
    scratch.mkdir()
    starter = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ORPHAN, str(repository)),
        stdout=asyncio.subprocess.PIPE,
        env={
            **os.environ,
            "TMPDIR": str(tmp_path),
        },  # its temporary folder stays behind, with nobody to remove it
    )
    out, _ = await asyncio.wait_for(starter.communicate(), 120)
    pid, prefix = out.decode().split()
    async with asyncio.timeout(30):
        while Path(f"/proc/{pid}").exists():  # noqa: ASYNC110 - not our child: nothing to await
            await asyncio.sleep(0.1)
    assert not [name for name in os.listdir("/dev/shm") if name.startswith(prefix)]
