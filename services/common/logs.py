"""Structured logs on stderr, as JSON or for a console, with the session's id on every line."""

import asyncio
import logging
import sys
from typing import Any, Literal

import structlog

from services.common import tracing

log = structlog.get_logger()

MAX_SESSION_ID = 64
"""Characters of a session's id."""


def configure(service: str, log_format: Literal["json", "console"], level: str) -> None:
    """Sets up structlog for the process; `session_id` and the like come from contextvars."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if log_format == "json" else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            tracing.add_ids,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)


def bind_session(session_id: str) -> None:
    """Puts the session's id on every line that the current call logs, and on its span.

    A caller chooses it: so much of it as an id has, and nothing that a terminal would obey.
    """
    shown = ascii(session_id[:MAX_SESSION_ID])[1:-1]
    structlog.contextvars.bind_contextvars(session_id=shown)
    tracing.current().set({"session.id": shown})


def bind_caller(name: str) -> None:
    """Likewise, who asks."""
    structlog.contextvars.bind_contextvars(caller=name)


def event_loop_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A loop's exception handler: what nobody awaits is a line like all others."""
    error = context.get("exception")
    what = {name: str(value) for name, value in context.items() if name != "exception"}
    if "transport" in context and isinstance(error, RuntimeError) and "handler is closed" in str(error):
        # uvloop's, where TLS data comes while its connection is being closed: its user has left it already.
        log.debug("connection closed", **what)
        return
    log.error("event loop", **what, exc_info=error)
