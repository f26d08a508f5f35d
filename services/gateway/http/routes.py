"""Which path is answered by what."""

from services.common.pair import Pair
from services.gateway.cluster_parts import Cluster
from services.gateway.completions import Completions
from services.gateway.http.chat import Chat
from services.gateway.http.front import HttpFront
from services.gateway.http.models import Models
from services.gateway.http.server import HttpServer
from services.gateway.service import ReasoningService
from services.gateway.settings import GatewaySettings


def open_http(
    settings: GatewaySettings, pair: Pair, cluster: Cluster, service: ReasoningService
) -> HttpServer | None:
    """A gateway's HTTP front, by the routes of OpenAI's API; None where it is to have none."""
    if not settings.http:
        return None
    entrance, models = service.entrance, Models()
    front = HttpFront(
        settings,
        entrance,
        {
            ("POST", "/v1/chat/completions", "ChatCompletions"): Chat(
                service, Completions(settings, cluster, entrance), entrance, pair
            ),
            ("GET", "/v1/models", "Models"): models.listed,
            ("GET", "/v1/models/{model:path}", "Models"): models.one,
        },
    )
    # Who has an API key needs no certificate: OpenAI clients have no place for one.
    asks_clients = settings.tls_ca is not None and settings.keys is None
    return HttpServer(
        front, settings.http, settings.tls, asks_clients=asks_clients, most=4 * settings.max_calls
    )
