"""A Redis URL says where and how; a bad one is refused at start, without telling its secrets."""

from pathlib import Path

import pytest

from services.gateway.redis_url import Layout, RedisUrl, RedisUrlError
from services.gateway.settings import GatewaySettings
from tests.unit.issued import issued

SECRET = "s3cret"


def test_one_server() -> None:
    url = RedisUrl.parse("redis://me:p%40ss%2Fword@h:7/3?client_name=gateway")
    assert (url.layout, url.tls, url.hosts) == (Layout.SERVER, False, (("h", 7),))
    assert url.options == {"username": "me", "password": "p@ss/word", "db": 3, "client_name": "gateway"}
    assert RedisUrl.parse("redis://").hosts == (("localhost", 6379),)
    assert RedisUrl.parse("redis://[::1]:7").hosts == (("::1", 7),)


def test_a_socket() -> None:
    url = RedisUrl.parse("unix://:word@/run/redis.sock?db=2")
    assert not url.hosts
    assert url.options == {"password": "word", "db": 2, "unix_socket_path": "/run/redis.sock"}


def test_sentinels_have_a_password_of_their_own() -> None:
    url = RedisUrl.parse("redis+sentinel://me:word@a,b:7/sessions/2?sentinel_password=watcher")
    assert (url.layout, url.hosts, url.service) == (Layout.SENTINEL, (("a", 26379), ("b", 7)), "sessions")
    assert url.options == {"username": "me", "password": "word", "db": 2}
    assert url.sentinel_options == {"password": "watcher"}
    assert RedisUrl.parse("redis+sentinel://a/sessions").service == "sessions"


def test_a_cluster() -> None:
    url = RedisUrl.parse("redis+cluster://:word@a:1,[::1]:2")
    assert (url.layout, url.hosts, url.options) == (
        *(Layout.CLUSTER, (("a", 1), ("::1", 2)), {"password": "word"}),
    )


def test_tls_is_the_same_for_all(tmp_path: Path) -> None:
    folder = issued(tmp_path)
    files = {"ssl_ca_certs": f"{folder}/ca.pem", "ssl_certfile": f"{folder}/gateway.pem"}
    files["ssl_keyfile"] = f"{folder}/gateway-key.pem"
    query = "&".join(f"{name}={path}" for name, path in files.items())
    url = RedisUrl.parse(f"rediss+sentinel://h/sessions?{query}")
    assert url.tls
    assert url.options == url.sentinel_options == files
    assert RedisUrl.parse(f"rediss+cluster://h?{query}").options == files
    with pytest.raises(RedisUrlError, match="do not fit"):
        RedisUrl.parse(f"rediss://h?{query.replace('gateway-key', 'target-key')}")
    with pytest.raises(RedisUrlError, match=r"ssl_ca_certs: cannot read .*nothing\.pem"):
        RedisUrl.parse(f"rediss://h?ssl_ca_certs={folder}/nothing.pem")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (f"http://:{SECRET}@h", "begins with"),
        (f"redis://:#{SECRET}@h", "%XX"),
        (f"redis://:{SECRET}/x@h", "HOST"),
        (f"redis://:{SECRET}@h:port", "ports"),
        (f"redis://:{SECRET}@h:70000", "ports"),
        (f"redis://:{SECRET}@h/first", "number"),
        (f"redis://:{SECRET}@h,i", "several hosts"),
        (f"redis://:{SECRET}@h?ssl_ca_certs=x", "rediss"),
        (f"redis://:{SECRET}@h?socket_timeout=9", "socket_timeout"),
        (f"redis://:{SECRET}@h?db=x", "db has a value"),
        (f"redis://:{SECRET}@h?sentinel_password={SECRET}", "no option"),
        (f"redis+sentinel://:{SECRET}@h", "SERVICE"),
        (f"redis+sentinel://:{SECRET}@h/a/b", "number"),
        (f"redis+cluster://:{SECRET}@h/1", "database 0"),
        (f"unix://:{SECRET}@h/path", "socket"),
        (f"rediss://:{SECRET}@h?ssl_cert_reqs=perhaps", "perhaps"),
        (f"rediss://:{SECRET}@h?ssl_keyfile=pyproject.toml", "do not fit"),
    ],
)
def test_what_cannot_be_used_ends_the_start(url: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        GatewaySettings.load(["--redis", url])
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert told.startswith("settings: redis: ")
    assert why in told
    assert SECRET not in told


def test_a_client_that_cannot_do_it_is_refused_at_start(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        GatewaySettings.load(["--redis", f"rediss://:{SECRET}@h", "--redis-client", "asyncio-redis"])
    assert capsys.readouterr().err == "settings: redis: asyncio-redis has no TLS; use the client redis-py\n"


def test_nothing_shows_a_password() -> None:
    url = f"redis+sentinel://:{SECRET}@h/sessions?sentinel_password=watcher"
    assert SECRET not in repr(GatewaySettings(redis=url))
    assert RedisUrl.parse(url).scrub(f"{SECRET} and watcher") == "*** and ***"
    assert SECRET not in repr(RedisUrl.parse(url))
