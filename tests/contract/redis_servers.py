"""Real Redis servers of a test's own: one alone, one with TLS and users, one behind Sentinel, a cluster."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

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
_SLOTS = 16384
_BUS = 10_000


@dataclass(frozen=True, slots=True)
class Server:
    """One that runs."""

    process: "subprocess.Popen[bytes]"
    port: int
    admin: "redis.Redis"

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


@contextmanager
def secured(folder: Path) -> Iterator[Servers]:
    """Mutual TLS, and a user with few rights."""
    authority = Authority.at(folder)
    authority.issue(folder, "gateway", 1)
    authority.issue(folder, "target", 1, [host_name(HOST)])  # a certificate that may serve; the name is no matter
    port = free_port(HOST)
    lines = [
        *("port 0", f"tls-port {port}", "tls-auth-clients yes", f"tls-ca-cert-file {folder}/ca.pem"),
        *(f"tls-cert-file {folder}/target.pem", f"tls-key-file {folder}/target-key.pem"),
        *(f"user dreamr on >{PASSWORD} {RIGHTS}", "user admin on nopass ~* +@all", "user default off"),
    ]
    files = {
        "ssl_ca_certs": f"{folder}/ca.pem",
        "ssl_certfile": f"{folder}/gateway.pem",
        "ssl_keyfile": f"{folder}/gateway-key.pem",
    }
    query = "&".join(f"{name}={value}" for name, value in files.items())
    with _server(folder, port, lines, username="admin", password="-", ssl=True, **files) as server:
        yield Servers(f"rediss://dreamr:{quote(PASSWORD, safe='')}@{HOST}:{port}/0?{query}", [server])


@contextmanager
def watched(folder: Path) -> Iterator[Servers]:
    """A master and a replica that want passwords, and a Sentinel that wants another; a second one is down."""
    secret = [f'requirepass "{PASSWORD}"', f'masterauth "{PASSWORD}"']
    with ExitStack() as stack:
        ports = [free_port(HOST)]
        while len(ports) < 4:
            ports.append(free_port(HOST, ports))
        first, second, asked, down = ports
        master = stack.enter_context(_server(folder, first, secret, password=PASSWORD))
        follows = [*secret, f"replicaof {HOST} {first}"]
        replica = stack.enter_context(_server(folder, second, follows, password=PASSWORD))
        _until(lambda: replica.admin.info("replication")["master_link_status"] == "up")
        stack.enter_context(_sentinel(folder, asked, first))
        hosts = f"{HOST}:{down},{HOST}:{asked}"
        url = f"redis+sentinel://:{quote(PASSWORD, safe='')}@{hosts}/{SERVICE}/1?sentinel_password=watcher"
        yield Servers(url, [master, replica])


@contextmanager
def _sentinel(folder: Path, port: int, master: int) -> Iterator[None]:
    assert BINARY
    settings = folder / "sentinel.conf"
    settings.write_text(
        f"port {port}\nbind {HOST}\ndir {folder}\nrequirepass watcher\n"
        f"sentinel monitor {SERVICE} {HOST} {master} 1\n"
        f'sentinel auth-pass {SERVICE} "{PASSWORD}"\n'
        f"sentinel down-after-milliseconds {SERVICE} 500\n"
        f"sentinel failover-timeout {SERVICE} 2000\n"
    )
    with subprocess.Popen([BINARY, settings, "--sentinel"], stdout=subprocess.DEVNULL) as process:
        client = redis.Redis(HOST, port, password="watcher")
        try:
            _until(lambda: _replicas(client) == 1)
            yield
        finally:
            client.close()
            process.kill()


def _replicas(sentinel: "redis.Redis") -> int:
    try:
        found: dict[str, Any] = sentinel.sentinel_master(SERVICE)
    except redis.ConnectionError:
        return 0
    return int(found["num-slaves"])


@contextmanager
def clustered(folder: Path, replicas: int = 0) -> Iterator[Servers]:
    """Three masters; with a replica, it is the first one's."""
    lines = ["cluster-enabled yes", "cluster-node-timeout 1000"]
    with ExitStack() as stack:
        servers: list[Server] = []
        while len(servers) < 3 + replicas:
            port = free_port(HOST)
            if _is_free(port + _BUS):
                servers.append(stack.enter_context(_server(folder, port, lines)))
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
            _until(lambda replica=replica: replica.admin.info("replication")["master_link_status"] == "up")  # type: ignore[misc]
        # The first that is named is the one that fails.
        yield Servers("redis+cluster://" + ",".join(f"{HOST}:{server.port}" for server in servers), servers)


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
