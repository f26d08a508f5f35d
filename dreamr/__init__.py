"""Ask a dreamr cluster questions about images, and see its reasoning commit step by step.

async with dreamr.AsyncClient("127.0.0.1:7000") as client:
    answer = await client.ask("how many wheels are there?", images=["bus.png"])

with dreamr.Client("127.0.0.1:7000") as client:  # the same without asyncio
    answer = client.ask("how many wheels are there?", images=["bus.png"])
"""

from dreamr.client import AsyncClient
from dreamr.errors import (
    AuthenticationError,
    DeadlineError,
    DivergedError,
    DreamrError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    ServerError,
    SessionCancelledError,
    TlsError,
    UnavailableError,
)
from dreamr.events import Activity, Answer, Commit, Event, Finished, Session, Started, Totals, Verdict
from dreamr.sync_client import Client
from dreamr.tls import Tls

__all__ = [
    "Activity",
    "Answer",
    "AsyncClient",
    "AuthenticationError",
    "Client",
    "Commit",
    "DeadlineError",
    "DivergedError",
    "DreamrError",
    "Event",
    "Finished",
    "ForbiddenError",
    "InvalidRequestError",
    "NotFoundError",
    "OverloadedError",
    "ServerError",
    "Session",
    "SessionCancelledError",
    "Started",
    "Tls",
    "TlsError",
    "Totals",
    "UnavailableError",
    "Verdict",
]
