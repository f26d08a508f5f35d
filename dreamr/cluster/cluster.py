"""Triton, Redis and the four services on this machine, started together and stopped together."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

from dreamr.cluster.guard import locked_up
from dreamr.cluster.pairs import PairFiles
from dreamr.cluster.ports import free_port
from dreamr.cluster.processes import Child, ProcessError
from dreamr.cluster.triton import MODELS, TritonServer
from dreamr.tls import SERVERS, Tls
from dreamr.versions import NAME as VERSION_FILE

ROOT = MODELS.parent
START_SECONDS = 120.0
SPARE = frozenset({"draft", "verifier", "redis"})
"""Parts that a cluster does without: the target stands in, or sessions are not durable for a while. So it
does without each further gateway, and draft worker with its Triton, whose names have a number behind them.
"""
STARTING_AT_ONCE = 2
"""Further draft workers; each loads libraries for seconds of CPU time."""

Via = Callable[[str, str], Awaitable[str]]
"""Told a part's name and where it listens, returns the address by which others find it."""

_REDIS_FILES = "redis"

# The services do no arithmetic; threads of theirs would only take the models' cores.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


class Cluster:
    """A cluster of one's own; use it as `async with`.

    Args:
        address: where the gateway listens; port 0 picks a free one.
        pair: `bundled`, `emulated:PROFILE`, or the path of a pair's settings.
        repository: Triton's model repository, for a pair of one's own.
        settings: further environment for the services, such as `DREAMR_GATEWAY_MAX_SESSIONS`.
        draft_workers: draft services; the first one's model is in the target's Triton, each further one has
            a Triton of its own.
        gateways: that serve the same sessions; further ones listen on ports of their own.
        keep_logs: a folder for the logs; otherwise they go with the cluster.
        running: addresses of a target and a verifier that run elsewhere, by name: then none are started.
        tls: a folder as `dreamr certs` writes it: the services then talk by mutual TLS, and so must clients.
        redis_to_disk: Redis writes each change to its file before it answers, and has it all when restarted.
        via: puts something between the parts, such as a proxy; they meet directly by default.
        http: where the gateway serves OpenAI clients, port 0 for a free one; empty for nowhere. Further
            gateways serve them on ports of their own.

    Attributes:
        tritons: the Triton servers by name: triton, and triton-2 and so on for further draft workers.
        processes: the other children by name: redis, draft, draft-2 and so on, target, verifier, gateway.
        address: of the gateway (the first one), once started.
        gateways: addresses of all of them, as clients are to find them.
        http: where each of them serves OpenAI clients.
        addresses: where each service itself listens.
        metrics: where each service tells its metrics.

    Raises:
        ValueError: there is to be no draft worker, or no gateway.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:0",
        *,
        pair: str = "bundled",
        repository: Path | None = None,
        settings: dict[str, str] | None = None,
        draft_workers: int = 1,
        gateways: int = 1,
        keep_logs: Path | None = None,
        running: Mapping[str, str] | None = None,
        tls: Path | None = None,
        redis_to_disk: bool = False,
        via: Via | None = None,
        http: str = "",
    ) -> None:
        for name, count in (("draft_workers", draft_workers), ("gateways", gateways)):
            if count < 1:
                raise ValueError(f"{name}: must be at least 1, not {count}")
        self.address = address
        self.gateways: list[str] = []
        self.http: list[str] = []
        self.tritons: dict[str, TritonServer] = {}
        self.processes: dict[str, Child] = {}
        self.addresses: dict[str, str] = {}
        self.metrics: dict[str, str] = {}
        self._pair = pair
        self._repository = repository
        self._settings = settings or {}
        self._draft_workers = draft_workers
        self._gateways = gateways
        # Redis goes to it before it reads the name of its log.
        self._keep_logs = keep_logs and keep_logs.absolute()
        self._http = http
        self._running = dict(running or {})
        self._tls = {role: Tls.of(tls.absolute(), role) for role in SERVERS} if tls else {}
        self._redis_to_disk = redis_to_disk
        self._via = via
        self._folder: Path | None = None
        self._guards: list[asyncio.Task[None]] = []
        # Tritons that are being started anew since they were locked up, with what is set behind that.
        self._renewing: dict[str, asyncio.Event] = {}
        self._restarting = defaultdict[str, asyncio.Lock](asyncio.Lock)

    @property
    def triton(self) -> TritonServer:
        """The target's Triton, once started."""
        return self.tritons["triton"]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    def part(self, name: str) -> Child | TritonServer:
        """A part by its name, which must be one of `tritons` or `processes`."""
        return self.tritons.get(name) or self.processes[name]

    def pids(self) -> dict[str, int]:
        """Process ids of everything that runs, by name; Triton's models are among its children."""
        found = {name: child.pid for name, child in self.processes.items() if child.running}
        return found | {name: server.pid for name, server in self.tritons.items() if server.pid is not None}

    @property
    def _versions(self) -> str:
        """The file of the draft's versions, which need not be there."""
        return str(self._files.repository / "draft" / VERSION_FILE)

    async def start(self) -> None:
        """Starts all and waits until the gateway serves.

        Raises:
            PairError: there is no such pair.
            ProcessError: a part did not start.
            TlsError: a file of a service's certificate cannot be used.
            TritonStartError: Triton did not.
        """
        for files in self._tls.values():
            files.read()
        self._folder = self._keep_logs or Path(tempfile.mkdtemp(prefix="dreamr-cluster-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._files = PairFiles.of(self._pair, self._repository, self._folder)
            models = ["draft"] if "target" in self._running else None
            redis, triton = await _together(self._start_redis(), self._start_triton("triton", models))
            places = asyncio.Semaphore(STARTING_AT_ONCE)
            target, *drafts = await _together(
                self._found_or_started("target", triton=triton),
                self._start_service("draft", triton=triton, versions=self._versions),
                *(self._start_worker(number, places) for number in range(2, self._draft_workers + 1)),
            )
            verifier = await self._found_or_started("verifier", target=target)
            names = ["gateway", *(f"gateway-{number}" for number in range(2, self._gateways + 1))]
            more = self._gateways - 1
            listen = [self.address, *["127.0.0.1:0"] * more]
            self.http = [_with_port(where) for where in (self._http, *["127.0.0.1:0"] * more) if self._http]
            self.gateways = await _together(
                *(
                    self._start_service(
                        name,
                        where,
                        draft=",".join(drafts),
                        target=target,
                        verifier=verifier,
                        redis=redis,
                        http=http,
                    )
                    for name, where, http in zip_longest(names, listen, self.http, fillvalue="")
                )
            )
            self.address = self.gateways[0]
        except BaseException:
            await self.stop()
            raise
        self._guards = [asyncio.create_task(self._guard(name), name=f"{name}-guard") for name in self.tritons]

    async def watch(self, tell: Callable[[str], None]) -> None:
        """Waits until a part ends by itself that the cluster cannot do without.

        Args:
            tell: hears, in words, of each part that ends and is done without.

        Raises:
            ProcessError: names the part and its last words.
        """
        parts: dict[str, Child | TritonServer] = {**self.processes, **self.tritons}
        names = {asyncio.create_task(self._end_of(name, tell)): name for name in parts}
        try:
            while names:
                done, _ = await asyncio.wait(names, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    name = names.pop(task)
                    tail = parts[name].tail()
                    if name not in SPARE and "-" not in name:
                        raise ProcessError(f"{name} ended\n{tail}")
                    tell(f"{name} ended; the cluster goes on without it\n{tail}")
        finally:
            for task in names:
                task.cancel()
            await asyncio.gather(*names, return_exceptions=True)

    async def _end_of(self, name: str, tell: Callable[[str], None]) -> None:
        """Waits until a part ends by itself."""
        while True:
            await self.part(name).ended()
            if name not in self._renewing:
                return
            tell(f"{name} was locked up; it is started anew")
            await self._renewing[name].wait()
            if name not in self.pids():
                return

    async def _guard(self, name: str) -> None:
        """Starts a Triton anew whenever it is locked up."""
        while True:
            await locked_up(self.tritons[name])
            self._renewing[name] = asyncio.Event()
            try:
                self.tritons[name].kill()
                await self.restart(name)
            finally:
                self._renewing.pop(name).set()

    async def stop(self) -> None:
        """Stops all, the gateway first; leaves no process, no shared memory and no folder."""
        for guard in self._guards:
            guard.cancel()
        await asyncio.gather(*self._guards, return_exceptions=True)
        self._guards = []
        try:
            while self.processes:
                _, child = self.processes.popitem()  # the one that was started last
                await child.stop()
        finally:
            tritons, self.tritons = self.tritons, {}
            if tritons:
                await _together(*(server.stop() for server in tritons.values()))
            if self._folder is not None and self._keep_logs is None:
                await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
            self._folder = None

    async def restart(self, name: str, *, empty: bool = False) -> None:
        """Stops what is left of a part and starts it anew, at the address it had; returns once it serves.

        Args:
            empty: Redis finds nothing of what it had written to disk.

        Raises:
            ProcessError: it did not start.
            TritonStartError: Triton did not.
        """
        part = self.part(name)
        async with self._restarting[name]:
            await part.stop()
            if empty and self._folder is not None:
                await asyncio.to_thread(shutil.rmtree, self._folder / _REDIS_FILES, ignore_errors=True)
            await part.start()
            if isinstance(part, Child):
                await self._serves(part)

    async def _start_triton(self, name: str, models: Sequence[str] | None = None) -> str:
        """A Triton with these models (None: all); its gRPC address."""
        assert self._folder is not None
        server = TritonServer(
            self._files.repository,
            models,
            log_path=self._folder / f"{name}.log",
            tls=self._tls.get("triton"),
        )
        self.tritons[name] = server
        await server.start()
        return await self._found_at(name, server.grpc_address)

    async def _found_at(self, name: str, address: str) -> str:
        return await self._via(name, address) if self._via else address

    async def _start_worker(self, number: int, places: asyncio.Semaphore) -> str:
        """A further draft service, with a Triton of its own; its address."""
        async with places:
            triton = await self._start_triton(f"triton-{number}", ["draft"])
            return await self._start_service(f"draft-{number}", triton=triton, versions=self._versions)

    async def _found_or_started(self, name: str, **settings: str) -> str:
        """The address of the one that runs elsewhere, or of one that is started."""
        if name in self._running:
            self.addresses[name] = self._running[name]
            return self._running[name]
        return await self._start_service(name, **settings)

    async def _start_service(self, name: str, listen: str = "127.0.0.1:0", **settings: str) -> str:
        # A fixed port lets a service that is started anew be found again.
        listen = _with_port(listen)
        flags = [f"--{key}={value}" for key, value in settings.items() if value]
        role = name.partition("-")[0]
        if files := self._tls.get(role):
            flags += [f"--tls-cert={files.cert}", f"--tls-key={files.key}", f"--tls-ca={files.ca}"]
            if "triton" in settings:
                flags.append("--triton-name=triton")
        log_level = self._settings.get("log_level", "INFO")
        await self._start(
            name,
            [
                *(sys.executable, "-m", f"services.{role}"),
                *(f"--listen={listen}", f"--pair={self._files.settings}", f"--log-level={log_level}", *flags),
            ],
        )
        await self._serves(self.processes[name])
        return await self._found_at(name, self.addresses[name])

    async def _start_redis(self) -> str:
        """Redis where it is installed; without it sessions live in the gateway's memory."""
        binary = shutil.which("redis-server") or shutil.which(
            "redis-server", path=str(Path(sys.executable).parent)
        )
        if binary is None:
            return ""
        assert self._folder is not None
        address = _with_port("127.0.0.1:0")
        host, port = address.rsplit(":", 1)
        await self._start(
            "redis",
            [
                *(binary, "--bind", host, *self._redis_listens(port), "--save", ""),
                *("--appendonly", "yes" if self._redis_to_disk else "no", "--appendfsync", "always"),
                *("--appenddirname", _REDIS_FILES),
                *("--dir", str(self._folder), "--logfile", str(self._folder / "redis.log")),
            ],
        )
        self.addresses["redis"] = address
        await self._serves(self.processes["redis"])
        found = await self._found_at("redis", address)
        if not (files := self._tls.get("gateway")):
            return f"redis://{found}/0"
        # The certificate is for the name `redis`, wherever that runs.
        options = {
            "ssl_ca_certs": files.ca,
            "ssl_certfile": files.cert,
            "ssl_keyfile": files.key,
            "ssl_check_hostname": False,
        }
        return f"rediss://{found}/0?{urlencode(options)}"

    def _redis_listens(self, port: str) -> tuple[str, ...]:
        if not (files := self._tls.get("redis")):
            return "--port", port
        return (
            *("--port", "0", "--tls-port", port, "--tls-auth-clients", "yes"),
            *("--tls-ca-cert-file", str(files.ca)),
            *("--tls-cert-file", str(files.cert), "--tls-key-file", str(files.key)),
        )

    async def _serves(self, child: Child) -> None:
        """Waits until a child that has just been started serves."""
        if child.name != "redis":
            ready = (await child.line("ready ", START_SECONDS)).split()
            self.addresses[child.name], self.metrics[child.name] = ready[1], ready[3]
            return
        host, port = self.addresses["redis"].rsplit(":", 1)
        async with asyncio.timeout(10):
            while not await _answers(host, int(port)):
                if not child.running:
                    raise ProcessError(f"redis ended while starting\n{child.tail()}")
                await asyncio.sleep(0.02)

    async def _start(self, name: str, command: list[str]) -> None:
        assert self._folder is not None
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        environment = {
            **os.environ,
            **_ONE_THREAD,
            "PYTHONPATH": path,
            **{key: value for key, value in self._settings.items() if key.isupper()},
        }
        child = Child(name, command, self._folder / f"{name}.log", environment)
        self.processes[name] = child
        await child.start()


async def _together(*starting: Coroutine[Any, Any, Any]) -> list[Any]:
    """What each of them returns; when one fails the others are cancelled and awaited first."""
    tasks = [asyncio.ensure_future(one) for one in starting]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _with_port(address: str) -> str:
    host, port = address.rsplit(":", 1)
    return address if port != "0" else f"{host}:{free_port(host)}"


async def _answers(host: str, port: int) -> bool:
    with suppress(OSError):
        _, writer = await asyncio.open_connection(host, port)
        writer.close()
        await writer.wait_closed()
        return True
    return False
