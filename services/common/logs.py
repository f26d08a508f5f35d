"""Structured logs on stderr, as JSON or for a console, with the session's id on every line."""

import logging
import sys
from typing import Literal

import structlog

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
    """Puts the session's id on every line that the current call logs.

    A caller chooses it: so much of it as an id has, and nothing that a terminal would obey.
    """
    structlog.contextvars.bind_contextvars(session_id=ascii(session_id[:MAX_SESSION_ID])[1:-1])


def bind_caller(name: str) -> None:
    """Likewise, who asks."""
    structlog.contextvars.bind_contextvars(caller=name)
