"""One loaded model as Triton sees it: tensors in, tensors out, errors with Triton's codes."""

import gc
import json
import traceback
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from .computes import Computes, Encodes
from .config import HostSettings, ModelSettings
from .courier import Courier, CourierSink
from .engine import Engine, EngineCounts
from .errors import CancelledRequestError, InvalidRequestError, OverloadedError, RequestError
from .metrics import Metrics
from .request import Limits, Output, RawRequest, Request
from .tensors import INPUTS

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


# The code stands in the message too, by its gRPC name: a gRPC stream gives the caller the message alone, and
# the header that would give the status (triton_grpc_error) crashes Triton 2.51 when several requests fail.
_CODES: dict[type[Exception], tuple[str, Any]] = {
    InvalidRequestError: ("INVALID_ARGUMENT", pb_utils.TritonError.INVALID_ARG),
    OverloadedError: ("UNAVAILABLE", pb_utils.TritonError.UNAVAILABLE),
    CancelledRequestError: ("CANCELLED", pb_utils.TritonError.CANCELLED),
}


def _fail(sender: Any, error: Exception) -> None:
    name, code = _CODES.get(type(error), ("INTERNAL", pb_utils.TritonError.INTERNAL))
    message = str(error) if isinstance(error, RequestError) else f"{type(error).__name__}: {error}"
    failure = pb_utils.TritonError(f"{name}: {message}", code)
    sender.send(pb_utils.InferenceResponse(error=failure), flags=FINAL)


def _first(triton_request: Any, name: str) -> Any:
    """The only element of an input.

    None when it was not given. Raises InvalidRequestError for an empty tensor.
    """
    tensor = pb_utils.get_input_tensor_by_name(triton_request, name)
    if tensor is None:
        return None
    values = tensor.as_numpy().reshape(-1)
    if len(values) != 1:
        raise InvalidRequestError(f"{name} must have one element, not {len(values)}")
    return values[0]


def _strings(*values: str) -> Any:
    return np.array([value.encode() for value in values], dtype=np.object_)


class TritonReceiver:
    """Sends one request's outputs through its Triton response sender."""

    __slots__ = ("_model", "_sender", "returns")

    def __init__(self, model: "Instance", triton_request: Any) -> None:
        self._model = model
        self._sender = triton_request.get_response_sender()
        self.returns = frozenset(
            name.removeprefix("return_")
            for name in INPUTS
            if name.startswith("return_") and _first(triton_request, name)
        )

    def is_cancelled(self) -> bool:
        """Whether the caller has cancelled or left."""
        return bool(self._sender.is_cancelled())

    def deliver(self, output: Output) -> None:
        """One response, with the outputs that were asked for."""
        tensors = [pb_utils.Tensor("text_output", _strings(output.text))]
        returns = self.returns
        if returns:
            if "finish_reason" in returns:
                tensors.append(pb_utils.Tensor("finish_reason", _strings(str(output.finish_reason))))
            if "cumulative_logprob" in returns:
                cumulative = np.array([output.cumulative_logprob], dtype=np.float32)
                tensors.append(pb_utils.Tensor("cumulative_logprob", cumulative))
            if "logprobs" in returns:
                tensors.append(pb_utils.Tensor("logprobs", _strings(self._model.logprobs_json(output))))
            if "num_input_tokens" in returns:
                count = np.array([output.input_tokens], dtype=np.uint32)
                tensors.append(pb_utils.Tensor("num_input_tokens", count))
            if "num_output_tokens" in returns:
                count = np.array([output.new_tokens], dtype=np.uint32)
                tensors.append(pb_utils.Tensor("num_output_tokens", count))
        flags = 0 if output.finish_reason is None else FINAL
        self._sender.send(pb_utils.InferenceResponse(output_tensors=tensors), flags=flags)

    def deliver_error(self, error: Exception) -> None:
        """End with an error and the code that fits it."""
        _fail(self._sender, error)


Loaded = tuple[ModelSettings, Computes, Encodes]


def load_transformers(args: dict[str, str], host: HostSettings, parameters: dict[str, str]) -> Loaded:
    """A Hugging Face folder, as `1/model.json` names it."""
    # Imported here: an emulated model needs neither transformers nor the seconds that it takes to import.
    from .prompt import PromptEncoder
    from .runner import Runner, pick_device, set_threads

    settings = ModelSettings.load(Path(pb_utils.get_model_dir()))
    set_threads(host.intra_op_thread_count)
    device = pick_device(args["model_instance_kind"], int(args["model_instance_device_id"]))
    runner = Runner(settings, device)
    encoder = PromptEncoder(runner.tokenizer, runner.processor, runner.image_token_id, host.max_image_pixels)
    sharing = "off: its cache cannot be cut" if runner.layout is None else "on"
    pb_utils.Logger.log_info(
        f"{args['model_name']}: {settings.model.name} on {device}, "
        f"max_model_len {runner.max_model_len}, prefix sharing {sharing}"
    )
    return settings, runner, encoder


class Instance:
    """A model with its engine and courier.

    Args:
        args: as Triton's python backend gives them.
        load: makes the model.
    """

    def __init__(
        self,
        args: dict[str, str],
        load: Callable[[dict[str, str], HostSettings, dict[str, str]], Loaded] = load_transformers,
    ) -> None:
        model_config = json.loads(args["model_config"])
        given: dict[str, dict[str, str]] = model_config.get("parameters", {})
        host = HostSettings.load(given)
        parameters = {name: entry.get("string_value", "") for name, entry in given.items()}
        settings, self._runner, encoder = load(args, host, parameters)
        self._limits = Limits(
            max_model_len=self._runner.max_model_len,
            max_logprobs=settings.max_logprobs,
            max_images=settings.max_images,
            max_image_bytes=host.max_image_bytes,
        )
        labels = {"model": args["model_name"], "version": args["model_version"]}
        self._metrics = self._make_metrics(labels)
        self._engine = Engine(self._runner, encoder, settings, host, self._report)
        # What has been loaded stays: a collector that walks it again and again would stall the engine.
        gc.collect()
        gc.freeze()
        # By the request's id, as long as the engine has it.
        self._sinks = weakref.WeakValueDictionary[str, CourierSink]()
        self._courier = Courier()
        self._courier.start()
        self._engine.start()

    @staticmethod
    def _make_metrics(labels: dict[str, str]) -> Metrics | None:
        try:
            return Metrics(pb_utils, labels)
        except pb_utils.TritonModelException as error:
            # Triton runs with its metrics off.
            pb_utils.Logger.log_info(f"no metrics: {error}")
            return None

    def _report(self, counts: EngineCounts) -> None:
        if self._metrics is not None:
            self._metrics.report(counts, self._runner.store)

    def execute(self, requests: list[Any]) -> None:
        """Hand requests to the engine; answers come from its thread."""
        for triton_request in requests:
            try:
                if _first(triton_request, "cancel"):
                    self._cancel(triton_request)
                    continue
                receiver = TritonReceiver(self, triton_request)
                sink = CourierSink(
                    self._courier, receiver, wants_cumulative_logprob="cumulative_logprob" in receiver.returns
                )
                if name := triton_request.request_id():
                    self._sinks[name] = sink
                self._engine.submit(self._parse(triton_request), sink)
            except Exception as error:  # noqa: BLE001 - nothing may leave a request without an answer
                if not isinstance(error, RequestError):
                    pb_utils.Logger.log_error(f"a request could not be taken: {traceback.format_exc()}")
                _fail(triton_request.get_response_sender(), error)

    def _cancel(self, triton_request: Any) -> None:
        """Ends the request of the same id, if it still runs; there is no answer but the end."""
        if (sink := self._sinks.get(triton_request.request_id())) is not None:
            sink.cancel()
        triton_request.get_response_sender().send(flags=FINAL)

    def _parse(self, triton_request: Any) -> Request:
        images = pb_utils.get_input_tensor_by_name(triton_request, "image")
        parameters = _first(triton_request, "sampling_parameters")
        exclude = _first(triton_request, "exclude_input_in_output")
        raw = RawRequest(
            text_input=_first(triton_request, "text_input"),
            image=() if images is None else images.as_numpy().reshape(-1).tolist(),
            stream=bool(_first(triton_request, "stream")),
            sampling_parameters=triton_request.parameters() if parameters is None else parameters,
            exclude_input_in_output=None if exclude is None else bool(exclude),
        )
        return Request.parse(raw, self._limits)

    def logprobs_json(self, output: Output) -> str:
        """Log-probabilities in the form of vLLM's backend.

        One map a token; `null` where none were asked for.
        """
        if not output.logprobs:
            return "null"
        text_of = self._runner.token_text
        return json.dumps(
            [
                {
                    # JSON has no minus infinity.
                    token: {"logprob": max(logprob, -9999.0), "rank": rank, "decoded_token": text_of(token)}
                    for token, logprob, rank in found.entries
                }
                for found in output.logprobs
            ]
        )

    def stop(self) -> None:
        """Stop the engine; what is under way fails with UNAVAILABLE."""
        self._engine.stop()
        self._courier.stop()
