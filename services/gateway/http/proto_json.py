"""Messages of our own API as JSON, under their own names, and back."""

import re
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from services.gateway.http.http_error import HttpError, refused

_Made = TypeVar("_Made", bound=Message)
# Of what the parser says, which may repeat what it was given.
_MOST_CHARS = 256
# How the parser names fields: from the outside in, or by their path at the end, or both; and one unknown.
_WITHIN = re.compile(r"Failed to parse (\w{1,64}) field: ")
_AT = re.compile(r' at "?\w+\.?([\w.\[\]]*)"?$')
_UNKNOWN = re.compile(r'Message type "[\w.]+" has no field named "([^"]{1,64})"')


def told(message: Message) -> dict[str, Any]:
    """A message as JSON."""
    found: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return found


def message_of(values: dict[str, Any], message: _Made, name: str = "") -> _Made:
    """The message, filled from JSON.

    Args:
        name: the field that the values are of; empty for those of a whole body.

    Raises:
        HttpError: they are none of such a message; it names the field.
    """
    try:
        return json_format.ParseDict(values, message)
    except (json_format.ParseError, OverflowError) as error:
        raise _refused(str(error).partition("\n")[0], name) from error


def _refused(said: str, name: str) -> HttpError:
    path: list[str] = []
    said = said.rstrip(".")
    while found := _WITHIN.match(said):
        path.append(found[1])
        said = said[found.end() :]
    if found := _AT.search(said):
        said = said[: found.start()]
        path = max(path, found[1].split(".") if found[1] else [], key=len)
    if found := _UNKNOWN.match(said):
        path.append(found[1])
        said = "there is no such field"
    return refused(".".join(filter(None, (name, *path))) or "body", said[:_MOST_CHARS])
