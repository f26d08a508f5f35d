"""The GPU overlay's models are such as the vLLM backend takes, and speak with our services."""

import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from services.common.errors import ServiceError
from services.common.pair import Pair
from services.common.triton import TritonModel
from services.verifier.settings import VerifierSettings
from tests.compose.vllm_contract import INPUTS, OUTPUTS, Tensor
from tests.unit.fake_triton import refused, serving

GPU = Path("compose/gpu")
ROLES = ("draft", "target")

# Engine arguments of vLLM that the files here use; an unknown one stops the engine.
ENGINE_ARGUMENTS = {
    *("model", "dtype", "max_model_len", "tensor_parallel_size", "max_num_seqs", "max_num_batched_tokens"),
    *("gpu_memory_utilization", "enable_prefix_caching", "enable_chunked_prefill", "max_logprobs"),
    "limit_mm_per_prompt",
}
WIRE = {"TYPE_STRING": "BYTES", "TYPE_BOOL": "BOOL", "TYPE_UINT32": "UINT32", "TYPE_FP32": "FP32"}


def config(role: str) -> Any:
    text = (GPU / "repository" / role / "config.pbtxt").read_text("utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def engine(role: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GPU / "repository" / role / "1" / "model.json").read_text("utf-8"))
    return found


def tensors(declared: Any) -> dict[str, Tensor]:
    """What a config declares; it has no word for optional outputs."""
    return {
        one.name: Tensor(
            model_config_pb2.DataType.Name(one.data_type), tuple(one.dims), getattr(one, "optional", False)
        )
        for one in declared
    }


class Recorder(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Keeps each request, and answers with every tensor of the contract but those it is to leave out."""

    def __init__(self, without: str = "") -> None:
        self.requests: list[Any] = []
        self._without = without

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        found = service_pb2.ModelConfigResponse()
        for name in INPUTS:
            found.config.input.add(name=name)
        return found

    async def ModelStreamInfer(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            if not request.raw_input_contents:
                yield refused(request)
                continue
            self.requests.append(request)
            response = service_pb2.ModelInferResponse()
            for name, raw in answer().items():
                if name != self._without:
                    response.outputs.add(name=name, datatype=WIRE[OUTPUTS[name].kind], shape=[1])
                    response.raw_output_contents.append(raw)
            yield service_pb2.ModelStreamInferResponse(infer_response=response)


def answer() -> dict[str, bytes]:
    place = {"9": {"logprob": -0.2, "rank": 1, "decoded_token": "positive"}}

    def string(text: str) -> bytes:
        return struct.pack("<I", len(text)) + text.encode()

    return {
        "text_output": string("positive"),
        "finish_reason": string("length"),
        "cumulative_logprob": struct.pack("<f", -0.2),
        "logprobs": string(json.dumps([place])),
        "num_input_tokens": struct.pack("<I", 7),
        "num_output_tokens": struct.pack("<I", 1),
    }


async def told_by(recorder: Recorder) -> Any:
    """What our client makes of the recorder's answer to a request that asks for all there is."""

    def add(server: Any) -> None:
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(recorder, server)

    async with serving(add) as address:
        model = TritonModel(address, "target")
        try:
            return await model.complete("p", [b"image"], {"max_tokens": 1, "logprobs": 20}, seconds=10)
        finally:
            await model.close()


@pytest.mark.parametrize("role", ROLES)
def test_the_config_is_one_for_the_backend(role: str) -> None:
    found = config(role)
    assert found.backend == "vllm"
    assert found.model_transaction_policy.decoupled
    # The engine batches by itself.
    assert found.max_batch_size == 0
    assert not found.HasField("dynamic_batching")


@pytest.mark.parametrize("role", ROLES)
def test_each_tensor_is_as_the_backend_declares_it(role: str) -> None:
    found = config(role)
    # Equal in type, shape and option: the backend adds nothing to a name that is there.
    assert tensors(found.input).items() <= INPUTS.items()
    assert tensors(found.output).items() <= OUTPUTS.items()


@pytest.mark.parametrize("role", ROLES)
async def test_the_inputs_are_those_that_the_services_send(role: str) -> None:
    recorder = Recorder()
    await told_by(recorder)
    (request,) = recorder.requests
    sent = {one.name: one for one in request.inputs}
    declared = tensors(config(role).input)
    assert set(sent) == set(declared)
    for name, tensor in declared.items():
        assert sent[name].datatype == WIRE[tensor.kind], name
        assert len(sent[name].shape) == len(tensor.dims), name


@pytest.mark.parametrize("role", ROLES)
async def test_the_outputs_are_those_that_the_services_read(role: str) -> None:
    whole = await told_by(Recorder())
    assert whole.logprobs[0][0].text == "positive"
    read = set()
    for name in OUTPUTS:
        try:
            if await told_by(Recorder(without=name)) != whole:
                read.add(name)
        except (KeyError, ServiceError):
            read.add(name)
    assert read == set(tensors(config(role).output))


@pytest.mark.parametrize("role", ROLES)
def test_the_engine_shares_prefixes_and_judges(role: str) -> None:
    found = engine(role)
    assert set(found) <= ENGINE_ARGUMENTS
    # A verdict's prompt extends the reasoning's: without the cache it would be paid for anew each time.
    assert found["enable_prefix_caching"] is True
    assert found["enable_chunked_prefill"] is True
    if role == "target":
        assert found["max_logprobs"] >= VerifierSettings.model_fields["top"].default


def test_the_pair_names_the_models_that_are_served() -> None:
    pair = Pair.load(GPU / "pair.toml")
    for role, model in (("draft", pair.draft), ("target", pair.target)):
        assert (GPU / "repository" / model.triton_model).is_dir()
        assert str(model.template) == engine(role)["model"]
        assert engine(role)["limit_mm_per_prompt"]["image"] == pair.reasoning.max_images
