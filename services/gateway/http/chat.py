"""`/v1/chat/completions`: a session of the cluster, or one model by itself."""

import asyncio
import uuid
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

from dreamr.v1 import completion_pb2, gateway_pb2
from services.common import logs
from services.common.errors import BrokenError, LateError
from services.common.pair import Pair
from services.common.server import LAST_WORDS_SECONDS
from services.gateway.call import LocalCall
from services.gateway.completions import Completions
from services.gateway.entrance import Entrance
from services.gateway.http.chat_reply import ChatReply, ended, logprobs, session_usage, usage
from services.gateway.http.chat_request import ChatRequest
from services.gateway.http.exchange import Exchange
from services.gateway.http.models import CLUSTER, NAMES, unknown_model
from services.gateway.http.proto_json import told
from services.gateway.service import ReasoningService

_DONE = "[DONE]"


class Chat:
    """Answers requests for completions."""

    def __init__(
        self, service: ReasoningService, completions: Completions, entrance: Entrance, pair: Pair
    ) -> None:
        self._service = service
        self._completions = completions
        self._entrance = entrance
        self._pair = pair

    async def __call__(self, exchange: Exchange) -> None:
        """See Behaviour."""
        asked = ChatRequest.parse(await exchange.json())
        for seconds in (asked.timeout, exchange.timeout):
            if seconds is not None:
                exchange.within(seconds)
        if asked.model not in NAMES:
            raise unknown_model(asked.model)
        try:
            async with asyncio.timeout_at(exchange.deadline + LAST_WORDS_SECONDS):
                if asked.model == CLUSTER:
                    await self._reason(asked, exchange)
                else:
                    await self._complete(asked.model.removeprefix(f"{CLUSTER}/"), asked, exchange)
        except TimeoutError as error:
            raise LateError("the client did not read within the deadline") from error

    async def _reason(self, asked: ChatRequest, exchange: Exchange) -> None:
        request = asked.to_reason(self._pair.reasoning, exchange.headers.get("idempotency-key", ""))
        session = _Session(asked, exchange, self._pair.reasoning.delimiter)
        await self._service.Reason(request, LocalCall(exchange.metadata, exchange.deadline, session.take))
        await session.end()

    async def _complete(self, part: str, asked: ChatRequest, exchange: Exchange) -> None:
        call_id = uuid.uuid4().hex
        logs.bind_session(call_id)
        request = asked.to_complete(call_id)
        reply = ChatReply(f"chatcmpl-{call_id}", asked.model)
        text, places, last = "", list[completion_pb2.TokenPlace](), None
        with self._entrance.call(exchange.metadata) as caller:
            stream = self._completions.stream(part, request, caller, exchange.deadline)
            async with aclosing(stream) as responses:
                async for response in responses:
                    if asked.stream:
                        if last is None:
                            await exchange.event(reply.chunk({"role": "assistant", "content": ""}))
                        found = logprobs(response.places) if asked.logprobs else None
                        if response.text or response.places:
                            await exchange.event(reply.chunk({"content": response.text}, logprobs=found))
                    else:
                        text += response.text
                        places += response.places
                    last = response
        if last is None or not last.HasField("usage"):
            raise BrokenError(f"{part}: ended without an end")
        spent = usage(last.usage.prompt_tokens, last.usage.output_tokens)
        reason = "length" if last.truncated else "stop"
        if asked.stream:
            await _finish(exchange, reply, asked, reply.chunk({}, finish_reason=reason), spent)
        else:
            found = logprobs(places) if asked.logprobs else None
            message = {"content": text}
            await exchange.reply(HTTPStatus.OK, reply.whole(message, reason, spent, logprobs=found))


class _Session:
    """One session's messages, as OpenAI's client hears of them."""

    def __init__(self, asked: ChatRequest, exchange: Exchange, delimiter: str) -> None:
        self._asked = asked
        self._exchange = exchange
        self._delimiter = delimiter
        self._reply = ChatReply("", asked.model)
        self._commits: list[gateway_pb2.Commit] = []
        self._finished: gateway_pb2.Finished | None = None

    async def take(self, response: gateway_pb2.ReasonResponse) -> None:
        """Tells a stream of it, and keeps it for the end."""
        if response.HasField("started"):
            session_id = response.started.session_id
            self._exchange.head["dreamr-session-id"] = session_id
            self._reply = ChatReply(f"chatcmpl-{session_id}", self._asked.model)
            await self._tell({"role": "assistant", "content": ""}, response)
        elif response.HasField("commit"):
            text = response.commit.step.text
            piece = f"{self._delimiter}{text}" if self._commits else text
            self._commits.append(response.commit)
            await self._tell({"reasoning": piece, "reasoning_content": piece}, response)
        elif response.HasField("activity"):
            await self._tell({}, response)
        else:
            self._finished = response.finished

    async def end(self) -> None:
        """Sends the answer.

        Raises:
            BrokenError: there is none.
        """
        if (finished := self._finished) is None:
            raise BrokenError("the session ended without an end")
        answer = ended(finished.answer, self._asked.stops)
        cut = answer != finished.answer
        long = finished.reason == gateway_pb2.FINISH_REASON_LENGTH and not cut
        reason = "length" if long else "stop"
        spent = session_usage(self._commits, finished)
        if self._asked.stream:
            await self._exchange.event(self._reply.chunk({"content": answer}))
            last = self._reply.chunk({}, finish_reason=reason, dreamr={"finished": told(finished)})
            await _finish(self._exchange, self._reply, self._asked, last, spent)
            return
        thought = self._delimiter.join(commit.step.text for commit in self._commits)
        message = {"content": answer, "reasoning": thought, "reasoning_content": thought}
        ours = {"commits": [told(commit) for commit in self._commits], "finished": told(finished)}
        await self._exchange.reply(HTTPStatus.OK, self._reply.whole(message, reason, spent, dreamr=ours))

    async def _tell(self, delta: dict[str, Any], response: gateway_pb2.ReasonResponse) -> None:
        if self._asked.stream:
            await self._exchange.event(self._reply.chunk(delta, dreamr=told(response)))


async def _finish(
    exchange: Exchange, reply: ChatReply, asked: ChatRequest, last: dict[str, Any], spent: dict[str, Any]
) -> None:
    await exchange.event(last)
    if asked.stream_options.include_usage:
        await exchange.event(reply.last_chunk(spent))
    await exchange.event(_DONE)
    await exchange.close()
