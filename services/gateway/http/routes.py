"""Which path is answered by what."""

from services.common.pair import Pair
from services.gateway.cluster_parts import Cluster
from services.gateway.completions import Completions
from services.gateway.http.chat import Chat
from services.gateway.http.front import HttpFront
from services.gateway.http.models import Models
from services.gateway.http.page import page
from services.gateway.http.reason import Reason
from services.gateway.http.server import HttpServer
from services.gateway.http.sessions import Sessions
from services.gateway.service import ReasoningService
from services.gateway.settings import GatewaySettings


def open_http(
    settings: GatewaySettings, pair: Pair, cluster: Cluster, service: ReasoningService
) -> HttpServer | None:
    """A gateway's HTTP front: OpenAI's API, our own and the page; None where it is to have none."""
    if not settings.http:
        return None
    entrance, models = service.entrance, Models()
    sessions = Sessions(service.timelines, entrance.callers)
    front = HttpFront(
        settings,
        entrance,
        {
            ("POST", "/v1/chat/completions", "ChatCompletions"): Chat(
                service, Completions(settings, cluster, entrance), entrance, pair
            ),
            ("GET", "/v1/models", "Models"): models.listed,
            ("GET", "/v1/models/{model:path}", "Models"): models.one,
            ("POST", "/v1/dreamr/reason", "HttpReason"): Reason(service),
            ("GET", "/v1/dreamr/sessions", "HttpSessions"): sessions.listed,
            ("GET", "/v1/dreamr/sessions/{id}", "HttpSessions"): sessions.one,
            ("GET", "/v1/dreamr/sessions/{id}/trace", "HttpSessions"): sessions.trace,
        },
        page(),
    )
    # Who has an API key needs no certificate: OpenAI clients have no place for one.
    asks_clients = settings.tls_ca is not None and settings.keys is None
    return HttpServer(
        front, settings.http, settings.tls, asks_clients=asks_clients, most=4 * settings.max_calls
    )
