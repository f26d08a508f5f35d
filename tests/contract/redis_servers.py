"""Real Redis servers of a test's own: one alone, one with TLS and users, one behind Sentinel, a cluster."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis

from dreamr.cluster.authority import Authority, host_name
from dreamr.cluster.ports import free_port

BINARY = shutil.which("redis-server") or shutil.which("redis-server", path=str(Path(sys.executable).parent))
HOST = "127.0.0.1"
SERVICE = "sessions"
# One that has to be quoted in a URL.
PASSWORD = "p@ss/w:rd#1"
# What a gateway's user must be allowed; SECURITY.md says the same.
RIGHTS = "~dreamr:* +@read +@write +@scripting +@connection +time -@dangerous"
CLUSTER_RIGHTS = "+cluster|slots +command"
_SLOTS = 16384
_BUS = 10_000


@dataclass(frozen=True, slots=True)
class Server:
    """One that runs."""

    process: "subprocess.Popen[bytes]"
    port: int
    admin: Any

    def kill(self) -> None:
        """Without a word, as when its machine dies."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def stopped(self, stopped: bool) -> None:
        """Freezes it, or lets it go on."""
        os.kill(self.process.pid, signal.SIGSTOP if stopped else signal.SIGCONT)


@dataclass(frozen=True, slots=True)
class Servers:
    """What a store is given, and what is behind it; the first server is the master that can fail."""

    url: str
    servers: Sequence[Server]

    def flush(self) -> None:
        """Forgets everything."""
        for server in self.servers:
            if server.admin.info("replication")["role"] == "master":
                server.admin.flushall()


@contextmanager
def _server(folder: Path, port: int, lines: Sequence[str] = (), **admin: Any) -> Iterator[Server]:
    """Starts one by a file of settings."""
    assert BINARY
    home = folder / str(port)
    home.mkdir()
    settings = home / "redis.conf"
    common = [f"port {port}", f"bind {HOST}", f"dir {home}", 'save ""', "repl-diskless-sync-delay 0"]
    settings.write_text("\n".join([*common, *lines]) + "\n")
    with subprocess.Popen([BINARY, settings], stdout=subprocess.PIPE) as process:
        assert process.stdout
        while b"eady to accept" not in (line := process.stdout.readline()):
            assert line, "redis-server ended while starting"
        client = redis.Redis(HOST, port, **admin)
        try:
            yield Server(process, port, client)
        finally:
            client.close()
            process.kill()
            process.communicate(timeout=10)


@contextmanager
def alone(folder: Path) -> Iterator[Servers]:
    """One, as it comes."""
    with _server(folder, free_port(HOST)) as server:
        yield Servers(f"redis://{HOST}:{server.port}/0", [server])


@dataclass(frozen=True, slots=True)
class Certificates:
    """Of a CA of the test's own, in a folder."""

    folder: Path

    @classmethod
    def made(cls, folder: Path) -> "Certificates":
        """New ones."""
        authority = Authority.at(folder)
        authority.issue(folder, "gateway", 1)
        authority.issue(folder, "target", 1, [host_name(HOST)])  # one that may serve; its role is no matter
        return cls(folder)

    def serving(self, port: int) -> list[str]:
        """A server's settings: mutual TLS, also between servers."""
        files = self.folder
        return [
            *("port 0", f"tls-port {port}", "tls-auth-clients yes", f"tls-ca-cert-file {files}/ca.pem"),
            *(f"tls-cert-file {files}/target.pem", f"tls-key-file {files}/target-key.pem"),
            # The servers' certificates serve for both sides.
            *("tls-replication yes", "tls-cluster yes"),
        ]

    @property
    def files(self) -> dict[str, str]:
        """A client's, under redis-py's names."""
        names = {"ssl_ca_certs": "ca", "ssl_certfile": "gateway", "ssl_keyfile": "gateway-key"}
        return {name: f"{self.folder}/{file}.pem" for name, file in names.items()}

    @property
    def query(self) -> str:
        """The same in a URL."""
        return "&".join(f"{name}={value}" for name, value in self.files.items())


def _users(rights: str) -> list[str]:
    return [f"user dreamr on >{PASSWORD} {rights}", "user default off", "user admin on nopass ~* +@all"]


@contextmanager
def secured(folder: Path) -> Iterator[Servers]:
    """Mutual TLS, and a user with few rights."""
    tls, port = Certificates.made(folder), free_port(HOST)
    with _server(folder, port, [*tls.serving(port), *_users(RIGHTS)], **_admin(tls)) as server:
        yield Servers(f"rediss://dreamr:{quote(PASSWORD, safe='')}@{HOST}:{port}/0?{tls.query}", [server])


@contextmanager
def watched(folder: Path, *, tls: bool = False) -> Iterator[Servers]:
    """A master and a replica that want passwords, and a Sentinel that wants another; a second one is down."""
    certificates = Certificates.made(folder) if tls else None
    secret = [f'requirepass "{PASSWORD}"', f'masterauth "{PASSWORD}"', "user admin on nopass ~* &* +@all"]
    with ExitStack() as stack:
        ports = [free_port(HOST)]
        while len(ports) < 4:
            ports.append(free_port(HOST, ports))
        first, second, asked, down = ports

        def started(port: int, *lines: str) -> Server:
            serving = certificates.serving(port) if certificates else []
            return stack.enter_context(
                _server(folder, port, [*serving, *secret, *lines], **_admin(certificates))
            )

        master = started(first)
        replica = started(second, f"replicaof {HOST} {first}")
        _until(lambda: _follows(replica))
        stack.enter_context(_sentinel(folder, asked, first, certificates))
        hosts = f"{HOST}:{down},{HOST}:{asked}"
        scheme, query = ("rediss", "&" + certificates.query) if certificates else ("redis", "")
        where = f"{quote(PASSWORD, safe='')}@{hosts}/{SERVICE}/1?sentinel_password=watcher"
        yield Servers(f"{scheme}+sentinel://:{where}{query}", [master, replica])


def _admin(certificates: Certificates | None) -> dict[str, Any]:
    tls = {"ssl": True, **certificates.files} if certificates else {}
    return tls | {"username": "admin", "password": "-"}


def _follows(replica: Server) -> bool:
    return bool(replica.admin.info("replication")["master_link_status"] == "up")


@contextmanager
def _sentinel(folder: Path, port: int, master: int, certificates: Certificates | None) -> Iterator[None]:
    assert BINARY
    settings = folder / "sentinel.conf"
    lines = [
        *(f"port {port}", f"bind {HOST}", f"dir {folder}", "requirepass watcher"),
        "user admin on nopass &* +@all",
        f"sentinel monitor {SERVICE} {HOST} {master} 1",
        f'sentinel auth-pass {SERVICE} "{PASSWORD}"',
        f"sentinel down-after-milliseconds {SERVICE} 500",
        f"sentinel failover-timeout {SERVICE} 2000",
        *(certificates.serving(port) if certificates else ()),
    ]
    settings.write_text("\n".join(lines) + "\n")
    with subprocess.Popen([BINARY, settings, "--sentinel"], stdout=subprocess.DEVNULL) as process:
        client = redis.Redis(HOST, port, **_admin(certificates))
        try:
            _until(lambda: _replicas(client) == 1)
            yield
        finally:
            client.close()
            process.kill()


def _replicas(sentinel: "redis.Redis") -> int:
    try:
        found: Any = sentinel.sentinel_master(SERVICE)
    except redis.ConnectionError:
        return 0
    return int(found["num-slaves"])


@contextmanager
def clustered(folder: Path, replicas: int = 0, *, tls: bool = False) -> Iterator[Servers]:
    """Three masters, with a user of few rights; with a replica, it is the first one's."""
    certificates = Certificates.made(folder) if tls else None
    # Replicas log in as well.
    users = [*_users(f"{RIGHTS} {CLUSTER_RIGHTS}"), "masteruser admin", "masterauth -"]
    lines = ["cluster-enabled yes", "cluster-node-timeout 1000"]
    with ExitStack() as stack:
        servers: list[Server] = []
        while len(servers) < 3 + replicas:
            port = free_port(HOST)
            if _is_free(port + _BUS):
                serving = certificates.serving(port) if certificates else []
                started = _server(folder, port, [*serving, *users, *lines], **_admin(certificates))
                servers.append(stack.enter_context(started))
        each = -(-_SLOTS // 3)
        for number, server in enumerate(servers):
            server.admin.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number < 3:
                slots = range(number * each, min((number + 1) * each, _SLOTS))
                server.admin.execute_command("CLUSTER", "ADDSLOTS", *slots)
            if number:
                server.admin.execute_command("CLUSTER", "MEET", HOST, servers[0].port)
        _until(lambda: all(_knows(server, len(servers)) for server in servers))
        first = servers[0].admin.execute_command("CLUSTER", "MYID")
        for replica in servers[3:]:
            replica.admin.execute_command("CLUSTER", "REPLICATE", first)
        _until(lambda: all(_follows(replica) for replica in servers[3:]))
        hosts = ",".join(f"{HOST}:{server.port}" for server in servers)
        scheme, query = ("rediss", "?" + certificates.query) if certificates else ("redis", "")
        yield Servers(f"{scheme}+cluster://dreamr:{quote(PASSWORD, safe='')}@{hosts}{query}", servers)


def _knows(server: Server, nodes: int) -> bool:
    info = server.admin.cluster("INFO")
    return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == nodes


def _is_free(port: int) -> bool:
    with socket.socket() as found:
        try:
            found.bind((HOST, port))
        except OSError:
            return False
    return True


def _until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Nothing tells when a server has come to know of others: it is asked."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "the servers did not come together"
        time.sleep(0.02)


# redis-py leaves them to the garbage collector where it is cancelled, or its server goes, as it connects.
LEAVES_SOCKETS = pytest.mark.filterwarnings(
    "ignore:(?s).*ResourceWarning:pytest.PytestUnraisableExceptionWarning"
)

Start = Callable[[Path], AbstractContextManager[Servers]]
LAYOUTS: dict[str, Start] = {
    "alone": alone,
    "tls": secured,
    "sentinel-tls": partial(watched, tls=True),
    "cluster-tls": partial(clustered, tls=True),
}
"""How servers are started, by what is in a URL."""


def started(start: Start, folder: Path) -> Iterator[Servers]:
    """Servers for a fixture; where there is no Redis the test is skipped."""
    if BINARY is None:
        pytest.skip("redis-server is not installed (Debian: redis-tools)")
    with start(folder) as servers:
        yield servers
