"""Sends cases, and tells how each ended."""

import asyncio
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from bench.fuzz.cases import LONG_SECONDS, NOBODY, PLAIN, STRANGER, Call, Case, Raw
from bench.fuzz.wire import Answer
from dreamr.tls import Tls
from services.common.channel import CLIENT_OPTIONS

SLACK_SECONDS = 10.0
"""Past its own deadline; two cores may be busy."""

HANG = "HANG"
_CODES = {str(code.value[0]): code.name for code in grpc.StatusCode}
_OPTIONS = [
    *(option for option in CLIENT_OPTIONS if option[0] != "grpc.max_send_message_length"),
    ("grpc.max_send_message_length", -1),
]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a case ended: a status, `closed`, `reset`, `goaway` or `http NNN`, `open` where the server waits
    for more and may, or HANG.
    """

    status: str
    detail: str = ""


class Sender:
    """Sends to one cluster; use it as `async with`.

    Args:
        addresses: where each service listens.
        tls: folder of its certificates; None for plaintext.
        strange: folder of certificates that another CA issued.
    """

    def __init__(self, addresses: Mapping[str, str], tls: Path | None, strange: Path | None) -> None:
        self._addresses = addresses
        self._tls = tls
        self._strange = strange
        self._channels: dict[tuple[str, str], grpc.aio.Channel] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}

    @property
    def encrypted(self) -> bool:
        """Whether the cluster serves TLS."""
        return self._tls is not None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.hang_up()

    async def hang_up(self) -> None:
        """Closes all channels; they are opened anew when they are needed."""
        while self._channels:
            _, channel = self._channels.popitem()
            await channel.close()

    async def send(self, case: Case) -> Outcome:
        """Sends one and waits for its end."""
        seconds = case.sent.timeout if isinstance(case.sent, Call) else case.sent.patience
        began = time.monotonic()
        try:
            async with asyncio.timeout(seconds + SLACK_SECONDS):
                if isinstance(case.sent, Raw):
                    return await self._raw(case.service, case.caller, case.sent)
                return await self._call(case.service, case.caller, case.sent)
        except TimeoutError:
            return Outcome(HANG, f"no end after {time.monotonic() - began:.1f} s")

    async def _call(self, service: str, caller: str, sent: Call) -> Outcome:
        if caller not in (NOBODY, STRANGER, PLAIN):
            key = service, caller
            if key not in self._channels:
                self._channels[key] = self._channel(service, caller)
            return await _outcome(self._channels[key], sent)
        # A channel that was refused once would not try again at once.
        async with self._channel(service, caller) as channel:
            return await _outcome(channel, sent)

    def _channel(self, service: str, caller: str) -> grpc.aio.Channel:
        address = self._addresses[service]
        if self._tls is None or caller == PLAIN:
            return grpc.aio.insecure_channel(address, options=_OPTIONS)
        if caller == NOBODY:
            return Tls(ca=self._tls / "ca.pem").open_channel(address, service, _OPTIONS)
        if caller == STRANGER:
            assert self._strange
            own = Tls.of(self._strange)
            return Tls(self._tls / "ca.pem", own.cert, own.key).open_channel(address, service, _OPTIONS)
        return Tls.of(self._tls, caller).open_channel(address, service, _OPTIONS)

    async def _raw(self, service: str, caller: str, sent: Raw) -> Outcome:
        context = self._context(caller) if self._tls and sent.handshake else None
        opened = await asyncio.gather(
            *(self._open(service, context) for _ in range(sent.connections)), return_exceptions=True
        )
        connections = [one for one in opened if not isinstance(one, BaseException)]
        try:
            if len(connections) < len(opened):
                return Outcome("refused", str(next(one for one in opened if isinstance(one, BaseException))))
            for _, writer in connections:
                for piece in sent.pieces:
                    writer.write(piece)
            return await _end(*connections[0], sent.patience)
        finally:
            for _, writer in connections:
                writer.transport.abort()

    async def _open(
        self, service: str, context: ssl.SSLContext | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, _, port = self._addresses[service].rpartition(":")
        return await asyncio.open_connection(
            host, int(port), ssl=context, server_hostname=service if context else None
        )

    def _context(self, caller: str) -> ssl.SSLContext:
        if caller not in self._contexts:
            assert self._tls
            files = Tls.of(self._tls, caller)
            assert files.cert
            context = ssl.create_default_context(cafile=str(files.ca))
            context.load_cert_chain(files.cert, files.key)
            context.set_alpn_protocols(["h2"])
            self._contexts[caller] = context
        return self._contexts[caller]


async def _outcome(channel: grpc.aio.Channel, sent: Call) -> Outcome:
    # On the wire one response looks like a stream of one.
    method: Any = channel.unary_stream(sent.path)
    call = method(sent.message, timeout=sent.timeout, metadata=sent.metadata)
    if sent.cancel is not None:
        asyncio.get_running_loop().call_later(sent.cancel, call.cancel)
    try:
        async for _ in call:
            pass
        code, detail = await call.code(), await call.details()
    except asyncio.CancelledError:
        # The client's leaving that was asked for; or ours.
        if sent.cancel is None or not call.cancelled():
            raise
        return Outcome("CANCELLED")
    except grpc.aio.AioRpcError as error:
        code, detail = error.code(), error.details()
    finally:
        call.cancel()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and sent.timeout == LONG_SECONDS:
        return Outcome(HANG, f"the client's own deadline of {sent.timeout:g} s ended it")
    return Outcome(code.name, detail or "")


async def _end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, patience: float) -> Outcome:
    answer = Answer()
    with suppress(TimeoutError):
        try:
            async with asyncio.timeout(patience):
                while not answer.end:
                    data = await reader.read(1 << 16)
                    if not data:
                        return Outcome("closed")
                    answer.feed(data)
        except (ConnectionError, ssl.SSLError) as error:
            return Outcome("closed", str(error))
    if answer.end:
        return Outcome(_CODES.get(answer.end, answer.end), answer.detail)
    return Outcome("open")
