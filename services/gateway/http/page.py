"""The timeline page: files of this package, which ask nothing of anybody but this gateway."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_FOLDER = Path(__file__).with_name("static")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    "content-security-policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    # A gateway of another version has another page.
    "cache-control": "no-cache",
}


def page() -> list[Route]:
    """Routes of the page: `/`, and its parts below `/static`."""
    routes = []
    for path in sorted(_FOLDER.iterdir()):
        if kind := _TYPES.get(path.suffix):
            where = "/" if path.name == "index.html" else f"/static/{path.name}"
            routes.append(Route(where, _File(path.read_bytes(), kind).answer))
    return routes


class _File:
    """A file, as it is sent."""

    def __init__(self, content: bytes, kind: str) -> None:
        self._content = content
        self._headers = {**_HEADERS, "content-type": kind}

    async def answer(self, _: Request) -> Response:
        """See Starlette."""
        return Response(self._content, headers=self._headers)
