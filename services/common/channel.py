"""gRPC channels and servers with matching options."""

from typing import Any

import grpc

from dreamr.tls import Tls

MAX_MESSAGE_BYTES = 64 << 20
"""Largest message that a service takes or gives."""

_SIZES: list[tuple[str, Any]] = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
]
# Set together: a server that is pinged more often than it allows answers too_many_pings.
_KEEPALIVE_MS = 2_000
# A replica that is frozen or cut off says nothing: within both of these its connection ends, and every call
# on it with UNAVAILABLE. gRPC's own threads answer pings, however busy the service's loop is.
_SILENCE_MS = 3_000
_PINGS: list[tuple[str, Any]] = [
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    # gRPC's core goes by the second alone (grpc/grpc#39239), which is a minute by default.
    ("grpc.keepalive_timeout_ms", _SILENCE_MS),
    ("grpc.http2.ping_timeout_ms", _SILENCE_MS),
    ("grpc.http2.max_pings_without_data", 0),
]
_CONNECTING: list[tuple[str, Any]] = [
    # So long may connecting take, too: the kernel accepts connections for a process that is frozen.
    ("grpc.min_reconnect_backoff_ms", _SILENCE_MS),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A pool of connections shared within the process would let one replica's failure hit another's channel.
    ("grpc.use_local_subchannel_pool", 1),
]
CLIENT_OPTIONS = [*_SIZES, *_PINGS, *_CONNECTING]
SERVER_OPTIONS = [
    *_SIZES,
    ("grpc.http2.min_ping_interval_without_data_ms", _KEEPALIVE_MS // 2),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),
]


def open_channel(address: str, role: str = "", tls: Tls | None = None) -> grpc.aio.Channel:
    """A channel to one replica; it connects when it is first used.

    Args:
        role: which the replica's certificate must name.
        tls: what to verify it by and to show it; without a CA the channel is plaintext.

    Raises:
        TlsError: a file of `tls` cannot be used.
    """
    if tls and tls.ca:
        return tls.open_channel(address, role, CLIENT_OPTIONS)
    return grpc.aio.insecure_channel(address, options=CLIENT_OPTIONS)


def open_triton_channel(address: str, name: str = "", tls: Tls | None = None) -> grpc.aio.Channel:
    """A channel to Triton, without pings: by default it takes one in five minutes, and hangs up on more.

    Args:
        name: which its certificate must have; without one the channel is plaintext.
        tls: what to verify it by and to show it.

    Raises:
        TlsError: there is a name and nothing to verify it by, or a file of `tls` cannot be used.
    """
    options = [*_SIZES, *_CONNECTING]
    if name:
        return (tls or Tls()).open_channel(address, name, options)
    return grpc.aio.insecure_channel(address, options=options)
