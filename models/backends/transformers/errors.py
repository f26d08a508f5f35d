"""The backend's errors, and nothing else: each maps to one Triton error code in `model.py`."""


class RequestError(Exception):
    """A request cannot be served; the message names the field and the limit."""


class InvalidRequestError(RequestError):
    """The caller's input is at fault (INVALID_ARG)."""


class OverloadedError(RequestError):
    """The waiting queue is full (UNAVAILABLE): the caller should go elsewhere or come back."""


class CancelledRequestError(RequestError):
    """The caller cancelled, or left (CANCELLED)."""


class ConfigError(ValueError):
    """`model.json` or a parameter of `config.pbtxt` is wrong; the model does not load."""
