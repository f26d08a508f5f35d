"""A Triton backend that speaks the vLLM backend's tensors and takes the time that a GPU pair would take."""
