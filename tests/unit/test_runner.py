"""The runner and engine in this process, with tiny random models of several kinds, beside transformers."""

import base64
import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from models.backends.transformers.config import HostSettings, ModelSettings
from models.backends.transformers.engine import Engine
from models.backends.transformers.errors import (
    CancelledRequestError,
    InvalidRequestError,
    OverloadedError,
)
from models.backends.transformers.prompt import Prompt, PromptEncoder, parse_images
from models.backends.transformers.request import Limits, Output, RawRequest, Request
from models.backends.transformers.runner import Runner
from tests.cluster.triton_calls import picture
from tests.tiny_model import make_tiny_model, tiny_tokenizer

CPU = torch.device("cpu")
TEXT = "<|user|>what is the step ?<|end|><|assistant|><think>\nthe step"


class Collector:
    """A sink that waits for the last output; `stop_after` cancels once the engine has asked that often."""

    wants_cumulative_logprob = False

    def __init__(self, stop_after: int | None = None) -> None:
        self.outputs: list[Output] = []
        self.error: Exception | None = None
        self.ended = threading.Event()
        self.asked = 0
        self._stop_after = stop_after

    def cancelled(self) -> bool:
        self.asked += 1
        return self._stop_after is not None and self.asked > self._stop_after

    def send(self, output: Output) -> None:
        self.outputs.append(output)
        if output.finish_reason is not None:
            self.ended.set()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.ended.set()

    @property
    def text(self) -> str:
        assert self.ended.wait(30)
        if self.error is not None:
            raise self.error
        return "".join(output.text for output in self.outputs)


class Served:
    """A model's folder behind an engine."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        model = ModelSettings(folder, dtype="float32", **settings)
        host = HostSettings()
        self.runner = Runner(model, CPU)
        self.encoder = PromptEncoder(
            self.runner.tokenizer, self.runner.processor, self.runner.image_token_id, 10**6
        )
        self.engine = Engine(self.runner, self.encoder, model, host, lambda counts: None)
        self.engine.start()
        self._limits = Limits(self.runner.max_model_len, 20, 8, 10**6)

    def begin(
        self, text: str, sink: Collector | None = None, images: tuple[bytes, ...] = (), **params: Any
    ) -> Collector:
        sink = sink or Collector()
        params = {"temperature": 0, "ignore_eos": True, **params}
        raw = RawRequest(
            text.encode(),
            [base64.b64encode(image) for image in images],
            sampling_parameters=json.dumps(params),
            exclude_input_in_output=True,
        )
        self.engine.submit(Request.parse(raw, self._limits), sink)
        return sink


def reference(folder: Path, text: str, count: int) -> str:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = tiny_tokenizer()
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        out = model.generate(
            ids, max_new_tokens=count, min_new_tokens=count, do_sample=False, eos_token_id=None
        )
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def save(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


COMMON: dict[str, Any] = {
    "vocab_size": len(tiny_tokenizer()),
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 1,
}
LLAMA: dict[str, Any] = {
    **COMMON,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA)),
    "llama with biases": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA, attention_bias=True, mlp_bias=True)),
    "llama, scaled positions": lambda: LlamaForCausalLM(
        LlamaConfig(**LLAMA, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0})
    ),
    "mistral, sliding window": lambda: MistralForCausalLM(MistralConfig(**LLAMA, sliding_window=8)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**COMMON, n_embd=32, n_layer=2, n_head=4, n_positions=256)),
}


@pytest.mark.parametrize("kind", MODELS)
def test_any_causal_model_gives_its_own_tokens_alone_together_and_from_a_prefix(
    kind: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    folder = save(tmp_path, MODELS[kind]())
    served = Served(folder, max_num_batched_tokens=7)
    assert (served.runner.layout is None) == ("sliding" in kind)
    expected = reference(folder, TEXT, 30)
    assert served.begin(TEXT, max_tokens=30).text == expected
    together = [served.begin(TEXT + part, max_tokens=12) for part in ("", " step", "")]
    longer = reference(folder, TEXT + " step", 12)
    assert [found.text for found in together] == [expected[: len(together[0].text)], longer, together[0].text]
    served.engine.stop()


def test_the_short_way_is_taken_for_plain_llamas_only(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for number, (kind, make) in enumerate(MODELS.items()):
        runner = Runner(ModelSettings(save(tmp_path / str(number), make()), dtype="float32"), CPU)
        assert (runner.fused is not None) == (kind == "llama")


def test_images_prefill_in_pieces_as_at_once(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path)
    processor: Any = AutoProcessor.from_pretrained(folder)
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    text = "<|user|>" + "before " * 5 + "<image>" + "between" + "<image>" + " after" * 5
    opened = [Image.open(io.BytesIO(picture(shade))) for shade in (1, 2)]
    with torch.inference_mode():
        wanted = model(**processor(text=[text], images=[opened], return_tensors="pt")).logits[0, -1]
    runner = Runner(ModelSettings(folder, dtype="float32"), CPU)
    encoder = PromptEncoder(runner.tokenizer, runner.processor, runner.image_token_id, 10**6)
    images = parse_images([base64.b64encode(picture(shade)) for shade in (1, 2)], 8, 10**6)
    for _ in range(2):  # the second time from the kept head
        prompt = encoder.encode(text, images)
        for budget in (3, 16, 40, 1000):
            state = runner.open(prompt, 1)
            logits = None
            while logits is None:
                _, logits = runner.prefill(state, budget)
            assert torch.allclose(logits, wanted, atol=1e-4)


def test_cancelling_is_seen_at_the_next_step_in_every_phase(tmp_path: Path) -> None:
    served = Served(make_tiny_model(tmp_path), max_num_batched_tokens=8, max_num_seqs=1)
    for asked in (0, 1, 3, 20):
        sink = served.begin("<|user|>" + "a long prompt " * 3, Collector(stop_after=asked), max_tokens=400)
        with pytest.raises(CancelledRequestError):
            _ = sink.text
        assert sink.asked == asked + 1
    assert served.begin("<|user|>x", max_tokens=3).text
    served.engine.stop()


def test_scores_go_before_prompts_that_came_earlier(tmp_path: Path) -> None:
    served = Served(make_tiny_model(tmp_path), max_num_batched_tokens=4, max_num_seqs=2)
    long = [served.begin("<|user|>" + str(number) * 400, max_tokens=100) for number in range(3)]
    score = served.begin("<|user|>012", max_tokens=1, logprobs=3)
    assert score.text
    assert not any(found.ended.is_set() for found in long)
    assert all(found.text for found in long)
    served.engine.stop()


def test_an_engine_that_breaks_fails_its_requests_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(make_tiny_model(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(served.engine, "_prefill_all", lambda *arguments: 1 / 0)
        sinks = [served.begin("<|user|>x", max_tokens=5) for _ in range(3)]
        for sink in sinks:
            with pytest.raises(ZeroDivisionError):
                _ = sink.text
    assert served.begin("<|user|>x", max_tokens=5).text
    served.engine.stop()


def test_stopping_fails_what_is_under_way(tmp_path: Path) -> None:
    served = Served(make_tiny_model(tmp_path))
    sink = served.begin("<|user|>x", max_tokens=500)
    served.engine.stop()
    with pytest.raises(OverloadedError):
        _ = sink.text
    with pytest.raises(OverloadedError):
        served.begin("<|user|>x")


def qwen(folder: Path) -> Qwen2VLForConditionalGeneration:
    """A tiny model whose positions are of time, height and width; its processor is left out."""
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 4}
    config = Qwen2VLConfig(
        text_config={**LLAMA, "rope_parameters": rope},
        vision_config=vision,
        image_token_id=5,
        video_token_id=6,
        vision_start_token_id=7,
        vision_end_token_id=8,
    )
    model = Qwen2VLForConditionalGeneration(config).eval()
    save(folder, model)
    return model


def test_positions_in_three_dimensions_follow_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = qwen(tmp_path)
    monkeypatch.setattr(AutoProcessor, "from_pretrained", lambda folder: tiny_tokenizer())
    runner = Runner(ModelSettings(tmp_path, dtype="float32"), CPU)
    ids = [10, 11, 12, 7, *[5] * 6, 8, 20, 21, 22, 23, 24]
    whole = torch.tensor([ids])
    features = {
        "pixel_values": torch.randn(24, 3 * 2 * 4 * 4),
        "image_grid_thw": torch.tensor([[1, 6, 4]]),
        "mm_token_type_ids": (whole == 5).int(),
    }
    with torch.inference_mode():
        out = model.generate(
            input_ids=whole,
            attention_mask=torch.ones_like(whole),
            max_new_tokens=12,
            min_new_tokens=12,
            do_sample=False,
            **features,
        )
    key = np.array([-7 if token == 5 else token for token in ids])
    prompt = Prompt(tuple(ids), key, 4, 10, features)
    for budget in (3, 100, 100):  # from the second on, from the kept prefix
        state = runner.open(prompt, 20)
        logits = None
        while logits is None:
            _, logits = runner.prefill(state, budget)
        tokens = [int(logits.argmax())]
        while len(tokens) < 12:
            (decoded,) = runner.decode([state], tokens[-1:])
            assert isinstance(decoded, torch.Tensor)
            tokens.append(int(decoded.argmax()))
        assert tokens == out[0, len(ids) :].tolist()
        runner.close(state)
        runner.share(state, np.concatenate([key, np.array(tokens)]))
    assert runner.store.counts.hits == 2


def test_an_image_that_takes_long_to_process_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(make_tiny_model(tmp_path))
    others_are_done, encode = threading.Event(), served.encoder.encode

    def slow(text: str, images: Any) -> Prompt:
        assert not images or others_are_done.wait(30)
        return encode(text, images)

    monkeypatch.setattr(served.encoder, "encode", slow)
    prompt = "<|user|><image>what ?<|end|><|assistant|>"
    waiting = served.begin(prompt, images=(picture(3),), max_tokens=4)
    scored = served.begin(prompt, images=(picture(3),), max_tokens=1, logprobs=2)
    assert served.begin(TEXT, max_tokens=8).text
    others_are_done.set()
    assert waiting.text
    assert scored.text is not None
    served.engine.stop()


def test_an_image_that_is_none_is_an_error_of_its_request(tmp_path: Path) -> None:
    served = Served(make_tiny_model(tmp_path))
    bad = served.begin("<|user|><image>what ?", images=(b"no image",), max_tokens=4)
    with pytest.raises(InvalidRequestError, match="cannot be decoded"):
        _ = bad.text
    assert served.begin(TEXT, max_tokens=4).text
    served.engine.stop()


def test_a_decode_step_that_fails_ends_that_sequence_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    served = Served(save(tmp_path, MODELS["gpt2"]()))
    forward = served.runner._forward

    def break_one(state: Any, ids: torch.Tensor, count: int, features: Any) -> torch.Tensor:
        if count == 1 and state.length > 14 and len(state.prompt.ids) < 14:
            raise RuntimeError("broken")
        return forward(state, ids, count, features)

    monkeypatch.setattr(served.runner, "_forward", break_one)
    short, long = served.begin("the step is", max_tokens=30), served.begin(TEXT * 2, max_tokens=30)
    assert long.text
    with pytest.raises(RuntimeError, match="broken"):
        _ = short.text
    served.engine.stop()
