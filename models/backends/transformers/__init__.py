"""A python-based Triton backend that serves Hugging Face models with the tensors of Triton's vLLM backend."""
