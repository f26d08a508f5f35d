"""Messages of our own API as JSON, under their own names, and back."""

from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from services.gateway.http.http_error import refused

_Made = TypeVar("_Made", bound=Message)
# Of what the parser says, which may repeat what it was given.
_MOST_CHARS = 256


def told(message: Message) -> dict[str, Any]:
    """A message as JSON."""
    found: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return found


def message_of(values: dict[str, Any], message: _Made, name: str) -> _Made:
    """The message, filled from JSON.

    Args:
        name: what the client calls the values.

    Raises:
        HttpError: they are none of such a message.
    """
    try:
        return json_format.ParseDict(values, message)
    except (json_format.ParseError, OverflowError) as error:
        raise refused(name, str(error).partition("\n")[0][:_MOST_CHARS]) from error
