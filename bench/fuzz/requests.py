"""Requests that are right: what a case begins with, and what tells that a service still works."""

from random import Random

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from bench.fuzz import images
from dreamr.tls import ROLES
from dreamr.v1 import common_pb2, draft_pb2, gateway_pb2, target_pb2, verifier_pb2
from services.common.identity import CALLERS
from services.gateway.sessions import Session

METHODS = {
    name: tuple(
        method for service in module.DESCRIPTOR.services_by_name.values() for method in service.methods
    )
    for name, module in (
        ("gateway", gateway_pb2),
        ("draft", draft_pb2),
        ("target", target_pb2),
        ("verifier", verifier_pb2),
    )
}
"""Of each service, every method."""
_REQUEST_IDS = 64


def valid(method: MethodDescriptor, chance: Random) -> Message:
    """A request that is right, and soon done."""
    context = common_pb2.Context(
        session_id="fuzz",
        question="what is the total ?",
        images=[common_pb2.Image(data=images.good())],
        steps=["one ."] * chance.randrange(3),
    )
    step = common_pb2.Step(text="one .", tokens=3)
    # Few of them, so that requests meet one another's sessions, and few sessions are worked on.
    request_id = f"fuzz-{chance.randrange(_REQUEST_IDS)}"
    session_id = Session.id_of(request_id)
    options = gateway_pb2.ReasonOptions(max_steps=2, max_step_tokens=8, max_answer_tokens=4)
    known: dict[str, Message] = {
        "Reason": gateway_pb2.ReasonRequest(
            question=context.question, images=context.images, options=options, request_id=request_id
        ),
        "Resume": gateway_pb2.ResumeRequest(session_id=session_id, from_index=chance.randrange(2)),
        "GetSession": gateway_pb2.GetSessionRequest(session_id=session_id),
        "Cancel": gateway_pb2.CancelRequest(session_id=session_id),
        "Draft": draft_pb2.DraftRequest(context=context, max_steps=1, max_step_tokens=8),
        "Generate": target_pb2.GenerateRequest(context=context, max_steps=1, max_step_tokens=8),
        "Score": target_pb2.ScoreRequest(context=context, candidate=step, instruction="is it right ?", top=5),
        "Verify": verifier_pb2.VerifyRequest(context=context, candidate=step),
    }
    if method.name == "Answer":
        kind = (
            draft_pb2.DraftServiceAnswerRequest if "Draft" in method.full_name else target_pb2.AnswerRequest
        )
        return kind(context=context, max_tokens=4)
    return known[method.name]


def unnamed(request: Message) -> Message:
    """The request under no id, so that it meets no session."""
    if isinstance(request, gateway_pb2.ReasonRequest):
        request.request_id = ""
    return request


def path_of(method: MethodDescriptor) -> str:
    """As gRPC writes it."""
    return f"/{method.containing_service.full_name}/{method.name}"


def may_call(service: str) -> set[str]:
    """Roles that the service takes calls from."""
    return CALLERS[METHODS[service][0].containing_service.full_name]


def caller_of(service: str) -> str:
    """A role that may call it."""
    return next(role for role in ROLES if role in may_call(service))


def good(service: str) -> list[tuple[str, bytes]]:
    """Path and right request of each method that starts work."""
    chance = Random(0)
    return [
        # A bad request may have begun something else under its id.
        (path_of(method), unnamed(valid(method, chance)).SerializeToString())
        for method in METHODS[service]
        if service != "gateway" or method.name == "Reason"
    ]
