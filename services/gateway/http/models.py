"""`/v1/models`: the cluster, and each of its models by itself."""

import time
from http import HTTPStatus
from typing import Any

from services.gateway.completions import PARTS
from services.gateway.http.exchange import Exchange
from services.gateway.http.http_error import HttpError

CLUSTER = "dreamr"
NAMES = (CLUSTER, *(f"{CLUSTER}/{part}" for part in PARTS))


class Models:
    """Tells which models there are."""

    def __init__(self) -> None:
        self._created = int(time.time())

    async def listed(self, exchange: Exchange) -> None:
        """All of them; see Behaviour."""
        await exchange.reply(HTTPStatus.OK, {"object": "list", "data": [self._model(name) for name in NAMES]})

    async def one(self, exchange: Exchange) -> None:
        """One of them; see Behaviour."""
        name = exchange.path_params["model"]
        if name not in NAMES:
            raise unknown_model(name)
        await exchange.reply(HTTPStatus.OK, self._model(name))

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": CLUSTER}


def unknown_model(name: str) -> HttpError:
    """There is no such model."""
    return HttpError(
        HTTPStatus.NOT_FOUND,
        f"there is no model {name[:64]!r}, but {', '.join(NAMES)}",
        param="model",
        code="model_not_found",
    )
