"""The tensors of Triton's vLLM backend, as it declares them to Triton.

Source: triton-inference-server/vllm_backend, src/model.py, `_auto_complete_inputs_and_outputs`, at commit
8de0c148bda1da25de1e05ffaaf67116dacc7264 (January 2026). Left out is `embedding_request`, which clients are
told never to send.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor; a dimension of -1 is any."""

    kind: str
    dims: tuple[int, ...] = (1,)
    optional: bool = False


INPUTS = {
    "text_input": Tensor("TYPE_STRING"),
    "image": Tensor("TYPE_STRING", (-1,), optional=True),
    "stream": Tensor("TYPE_BOOL", optional=True),
    "sampling_parameters": Tensor("TYPE_STRING", optional=True),
    "exclude_input_in_output": Tensor("TYPE_BOOL", optional=True),
    "return_finish_reason": Tensor("TYPE_BOOL", optional=True),
    "return_cumulative_logprob": Tensor("TYPE_BOOL", optional=True),
    "return_logprobs": Tensor("TYPE_BOOL", optional=True),
    "return_num_input_tokens": Tensor("TYPE_BOOL", optional=True),
    "return_num_output_tokens": Tensor("TYPE_BOOL", optional=True),
}
OUTPUTS = {
    "text_output": Tensor("TYPE_STRING", (-1,)),
    "finish_reason": Tensor("TYPE_STRING", (-1,)),
    "cumulative_logprob": Tensor("TYPE_FP32", (-1,)),
    "logprobs": Tensor("TYPE_STRING", (-1,)),
    "num_input_tokens": Tensor("TYPE_UINT32"),
    "num_output_tokens": Tensor("TYPE_UINT32", (-1,)),
}
