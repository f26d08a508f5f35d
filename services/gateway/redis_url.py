"""Where the sessions' Redis is and how it is reached, as a URL says it.

`redis://`, `rediss://` and `unix://` are redis-py's. redis-py has none for Sentinel and Cluster; what others
made common is taken here:

    redis[s]://[USER:PASSWORD@]HOST[:PORT][/DATABASE]
    redis[s]+sentinel://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...]/SERVICE[/DATABASE]
    redis[s]+cluster://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]...]
    unix://[USER:PASSWORD@]PATH[?db=DATABASE]

Options stand behind a `?`, under redis-py's names. No error here repeats what may be secret in the URL.
"""

import re
import ssl
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

from redis.asyncio.connection import URL_QUERY_ARGUMENT_PARSERS, SSLConnection
from redis.exceptions import RedisError

_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS_OPTIONS = (*_TLS_FILES, "ssl_check_hostname", "ssl_cert_reqs", "ssl_ciphers")
_OPTIONS = (*_TLS_OPTIONS, "username", "password", "db", "client_name", "health_check_interval")
# Sentinels have users of their own.
_SENTINEL_OPTIONS = {"sentinel_username": "username", "sentinel_password": "password"}

_URL = re.compile(
    r"(?P<scheme>redis|rediss|unix|rediss?\+(?P<layout>sentinel|cluster))://"
    r"((?P<user>[^/?#]*)@)?(?P<hosts>[^/?#]*)(?P<path>/[^?#]*)?(\?(?P<query>[^#]*))?",
    re.IGNORECASE,
)
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:@\[\]]+)(?::(\d{1,5}))?")
_FORMS = "redis://, rediss://, unix://, redis[s]+sentinel:// and redis[s]+cluster://"


class RedisUrlError(ValueError):
    """A URL that cannot be used; the message says why, and has no secret of it."""


class Layout(StrEnum):
    """What the URL's hosts are."""

    SERVER = "server"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A URL, taken apart.

    Attributes:
        hosts: names or addresses with ports, of the server, of Sentinels or of some of a cluster's nodes;
            none where `options` has the path of a socket.
        service: under which Sentinels know the master.
        options: what connections to Redis are made with, under redis-py's names; `db` among them.
        sentinel_options: the same for connections to Sentinels.
    """

    layout: Layout
    tls: bool
    hosts: tuple[tuple[str, int], ...]
    service: str = ""
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, url: str) -> "RedisUrl":
        """Takes a URL apart and reads the files that it names.

        Raises:
            RedisUrlError: says what is wrong.
        """
        match = _URL.fullmatch(url)
        if match is None:
            raise RedisUrlError(
                f"must be a URL that begins with one of {_FORMS}; special characters in names and passwords "
                "are written as %XX"
            )
        scheme, layout = match["scheme"].lower(), Layout((match["layout"] or "server").lower())
        tls = scheme.startswith("rediss")
        given = _options(match["query"] or "", layout, tls=tls)
        user, _, password = (match["user"] or "").partition(":")
        named = {"username": unquote(user), "password": unquote(password)}
        given |= {name: value for name, value in named.items() if value}
        sentinel = {to: given.pop(name) for name, to in _SENTINEL_OPTIONS.items() if name in given}
        path = unquote(match["path"] or "")
        if scheme == "unix":
            if match["hosts"] or not path:
                raise RedisUrlError("unix:// takes the path of a socket and no host")
            return cls(layout, tls, (), options=given | {"unix_socket_path": path})
        hosts = _hosts(match["hosts"], 26379 if layout is Layout.SENTINEL else 6379)
        if layout is Layout.SERVER and len(hosts) > 1:
            raise RedisUrlError("several hosts need redis+sentinel:// or redis+cluster://")
        service, database = "", path.strip("/")
        if layout is Layout.SENTINEL:
            service, _, database = database.partition("/")
            if not service:
                raise RedisUrlError("redis+sentinel:// needs /SERVICE or /SERVICE/DATABASE behind the hosts")
        if database:
            given.setdefault("db", _database(database))
        if layout is Layout.CLUSTER and given.get("db"):
            raise RedisUrlError("a cluster has database 0 only")
        shared = {name: value for name, value in given.items() if name in _TLS_OPTIONS}
        if tls:
            _check_tls(shared)
        return cls(layout, tls, hosts, service, given, sentinel | shared)

    def scrub(self, text: str) -> str:
        """The text without the URL's passwords."""
        for options in (self.options, self.sentinel_options):
            if password := options.get("password"):
                text = text.replace(password, "***")
        return text


def _hosts(text: str, port: int) -> tuple[tuple[str, int], ...]:
    """Names and ports, where the text has them."""
    found = []
    for one in (text or "localhost").split(","):
        match = _HOST.fullmatch(one)
        if match is None or int(match[2] or 0) > 65535:
            raise RedisUrlError("hosts must be HOST or HOST:PORT, with commas between and ports up to 65535")
        found.append((match[1].strip("[]"), int(match[2] or port)))
    return tuple(found)


def _options(query: str, layout: Layout, *, tls: bool) -> dict[str, Any]:
    """The URL's options, as redis-py reads them."""
    names = (*_OPTIONS, *_SENTINEL_OPTIONS) if layout is Layout.SENTINEL else _OPTIONS
    found: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in names:
            raise RedisUrlError(f"has no option {name[:64]!r}; there are {', '.join(names)}")
        if name in _TLS_OPTIONS and not tls:
            raise RedisUrlError(f"{name} needs rediss://")
        try:
            found[name] = URL_QUERY_ARGUMENT_PARSERS.get(name, str)(value)
        except ValueError:
            raise RedisUrlError(f"{name} has a value of the wrong kind") from None
    return found


def _database(text: str) -> int:
    if not text.isdecimal():
        raise RedisUrlError("the database, last in the path, must be a number")
    return int(text)


def _check_tls(options: dict[str, Any]) -> None:
    """Files that cannot be used are found at start, and not by the first session."""
    for name in _TLS_FILES:
        if path := options.get(name):
            try:
                Path(path).read_bytes()
            except OSError as error:
                raise RedisUrlError(f"{name}: cannot read {path}: {error.strerror}") from error
    try:
        # With a password, if an empty one, nobody is asked for the key's.
        SSLConnection(ssl_password="", **options).ssl_context.get()
    except (RedisError, ssl.SSLError, TypeError, ValueError) as error:
        raise RedisUrlError(f"the ssl_ options do not fit together: {error}") from error
