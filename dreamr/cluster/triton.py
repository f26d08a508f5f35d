"""Starts and stops a Triton Inference Server on this machine: the real one, from the `nvidia-pytriton` wheel.

May touch: child processes of its own, a temporary folder, its own regions in /dev/shm. Knows nothing of
torch or gRPC.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
import sysconfig
import tempfile
import uuid
from collections import deque
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType

from dreamr.cluster.ports import free_port
from dreamr.cluster.processes import dying_with_parent
from dreamr.tls import Tls

MODELS = Path(__file__).resolve().parents[2] / "models"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Triton's python backend keeps its regions
# One empty folder for each server, which stays behind where the server is killed or gives up waiting.
ENVIRONMENTS = Path("/tmp"), "python_env_*"  # noqa: S108 - the python backend's, not to be configured
TAIL_LINES = 40
_STARTED = {
    "grpc": re.compile(r"Started GRPCInferenceService"),
    "http": re.compile(r"Started HTTPService"),
    "metrics": re.compile(r"Started Metrics Service"),
}


class TritonStartError(RuntimeError):
    """Triton cannot be started; the message says what is missing or ends with Triton's own last words."""


class _CrashedError(TritonStartError):
    """It was ended by a signal, its own or another's."""


class TritonServer:
    """One Triton server with its models, as a child process.

    `repository` is a Triton model repository, `models` the names to load (None: all). Ports of 0 are
    picked. `binary` is a tritonserver that has backends of its own, such as NVIDIA's image brings (None: the
    wheel's, with `backends`). Metrics are told at `metrics_host` (None: `host`). With `tls` callers must
    show a certificate of its CA, and its own is for `tls_name`; then, or without `http`, there is no HTTP.
    The log goes to `log_path` (None: a temporary file, kept only for the error message). Use as `async with`,
    or call start and stop.
    """

    def __init__(
        self,
        repository: Path = MODELS / "repository",
        models: Sequence[str] | None = None,
        *,
        binary: Path | None = None,
        backends: Path = MODELS / "backends",
        host: str = "127.0.0.1",
        metrics_host: str | None = None,
        http: bool = True,
        grpc_port: int = 0,
        http_port: int = 0,
        metrics_port: int = 0,
        log_path: Path | None = None,
        tls: Tls | None = None,
        tls_name: str = "triton",
        start_seconds: float = 120.0,
        stop_seconds: float = 10.0,
    ) -> None:
        self._repository = repository
        self._models = models
        self._binary = binary
        self._backends = backends
        self.tls = tls
        self.tls_name = tls_name
        self._ports = {"grpc": grpc_port, "http": http_port, "metrics": metrics_port}
        if tls or not http:
            # Triton has no TLS for it.
            del self._ports["http"]
        self._hosts = dict.fromkeys(self._ports, host) | {"metrics": metrics_host or host}
        self._log_path = log_path
        self._start_seconds = start_seconds
        self._stop_seconds = stop_seconds
        self._prefix = f"dreamr_{uuid.uuid4().hex[:12]}_"
        self._folder: Path | None = None
        self._environments: set[Path] = set()
        self._process: asyncio.subprocess.Process | None = None
        self._pump: asyncio.Task[None] | None = None
        self._awaited: set[str] = set()
        self._ready = asyncio.Event()
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)

    @property
    def region_prefix(self) -> str:
        """How the names of this server's regions in /dev/shm begin."""
        return self._prefix

    @property
    def grpc_address(self) -> str:
        """HOST:PORT of Triton's gRPC service."""
        return f"{self._hosts['grpc']}:{self._ports['grpc']}"

    @property
    def metrics_address(self) -> str:
        """HOST:PORT of Triton's Prometheus metrics, under /metrics."""
        return f"{self._hosts['metrics']}:{self._ports['metrics']}"

    @property
    def pid(self) -> int | None:
        """Process id of tritonserver while it runs, which is its process group's too."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def ended(self) -> int:
        """Waits for the end of the running server and returns its status."""
        assert self._process is not None
        return await self._process.wait()

    def kill(self) -> None:
        """SIGKILL, at once."""
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Sends a signal to it and to its models' processes, if it runs."""
        with contextlib.suppress(ProcessLookupError):
            if self.pid is not None:
                os.killpg(self.pid, number)

    def tail(self) -> str:
        """The last lines of Triton's log."""
        return "\n".join(self._tail)

    async def __aenter__(self) -> "TritonServer":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start Triton and wait until every model is loaded. Raises TritonStartError.

        One that crashes is started once more: on a crowded machine the python backend aborts now and then,
        with a `lock_exception` (triton-inference-server/server#8882).
        """
        try:
            await self._start()
        except _CrashedError:
            await self._start()

    async def _start(self) -> None:
        wheel = None if self._binary else _wheel()
        library_folder = _libpython_folder() if wheel else None
        self._folder = Path(tempfile.mkdtemp(prefix="dreamr-triton-"))
        try:
            await asyncio.to_thread(self._lay_out, wheel, self._folder)
            self._pick_ports()
            self._awaited = set(self._ports)
            before = await asyncio.to_thread(_environments)
            self._process = await asyncio.create_subprocess_exec(
                *dying_with_parent(*self._command(wheel, self._folder)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=self._environment(wheel, library_folder, self._folder),
                start_new_session=True,
                limit=1 << 20,
            )
            self._pump = asyncio.create_task(self._read_log(self._process), name="triton-log")
            await self._wait_until_ready(self._process)
            self._environments = await asyncio.to_thread(_environments) - before
        except BaseException:
            await self.stop()
            raise

    async def _wait_until_ready(self, process: asyncio.subprocess.Process) -> None:
        exited = asyncio.create_task(process.wait(), name="triton-exit")
        ready = asyncio.create_task(self._ready.wait(), name="triton-ready")
        try:
            await asyncio.wait(
                {exited, ready}, timeout=self._start_seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for task in (exited, ready):
                task.cancel()
            await asyncio.gather(exited, ready, return_exceptions=True)
        if self._ready.is_set() and process.returncode is None:
            return
        if process.returncode is None:
            raise TritonStartError(
                f"Triton was not ready after {self._start_seconds:g} s; its log ends:\n{self.tail()}"
            )
        if self._pump is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._pump), 2)
        kind = _CrashedError if process.returncode < 0 else TritonStartError
        raise kind(f"Triton ended with status {process.returncode}; its log ends:\n{self.tail()}")

    async def _read_log(self, process: asyncio.subprocess.Process) -> None:
        """Copy Triton's output to the log file, and see in it when the services have started."""
        assert process.stdout is not None
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(self._log_path.open("ab")) if self._log_path is not None else None
            while True:
                try:
                    line = await process.stdout.readline()
                except ValueError:  # a line beyond the limit: its pieces are dropped, the reading goes on
                    continue
                if not line:
                    return
                if file is not None:
                    file.write(line)
                    file.flush()
                text = line.decode(errors="replace").rstrip()
                self._tail.append(text)
                if self._awaited:
                    self._awaited -= {name for name in self._awaited if _STARTED[name].search(text)}
                    if not self._awaited:
                        self._ready.set()

    def _pick_ports(self) -> None:
        """Chooses free ports that differ."""
        for name, port in self._ports.items():
            if port == 0:
                self._ports[name] = free_port(self._hosts[name], self._ports.values())

    def _lay_out(self, wheel: Path | None, folder: Path) -> None:
        """The repository, and for the wheel's server a backends folder as Triton wants it.

        Real files, since it refuses links that lead out of a backend.
        """
        # By a link: the python backend hands the path to a shell, where one with spaces would fall apart.
        (folder / "repository").symlink_to(self._repository.resolve(), target_is_directory=True)
        if wheel is None:
            return
        python = folder / "backends" / "python"
        python.mkdir(parents=True)
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stub = wheel / "python_backend_stubs" / version / "triton_python_backend_stub"
        if not stub.is_file():
            known = ", ".join(sorted(entry.name for entry in (wheel / "python_backend_stubs").iterdir()))
            raise TritonStartError(f"nvidia-pytriton has no stub for Python {version}, only for {known}")
        for source in (
            wheel / "backends" / "python" / "libtriton_python.so",
            wheel / "backends" / "python" / "triton_python_backend_utils.py",
            stub,
        ):
            shutil.copy2(source, python)
        for backend in self._backends.iterdir():
            if (backend / "model.py").is_file():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(backend, folder / "backends" / backend.name, ignore=ignore)

    def _command(self, wheel: Path | None, folder: Path) -> list[str]:
        names = ["*"] if self._models is None else list(self._models)
        return [
            str(wheel / "bin" / "tritonserver" if wheel else self._binary),
            f"--model-repository={folder / 'repository'}",
            *(_wheel_flags(folder, self._prefix) if wheel else ()),
            # Explicit control, so that a model whose process died can be loaded anew.
            "--model-control-mode=explicit",
            *(f"--load-model={name}" for name in names),
            *(f"--{name}-address={host}" for name, host in self._hosts.items()),
            *(f"--{name}-port={port}" for name, port in self._ports.items()),
            *(() if "http" in self._ports else ("--allow-http=false",)),
            *(_tls_flags(self.tls) if self.tls else ()),
            # An idle server needs 2 s; one whose callers cancelled may wait for ever (a leak in Triton 2.51).
            f"--exit-timeout-secs={max(1, min(3, int(self._stop_seconds / 2)))}",
        ]

    @staticmethod
    def _environment(wheel: Path | None, library_folder: Path | None, temporary: Path) -> dict[str, str]:
        environment = dict(os.environ)
        if wheel is None:
            return environment
        libraries = [str(wheel.parents[1] / "nvidia_pytriton.libs"), str(library_folder)]
        if before := environment.get("LD_LIBRARY_PATH"):
            libraries.append(before)
        environment["LD_LIBRARY_PATH"] = ":".join(libraries)
        # The interpreter within the stub finds its packages by the python3 that comes first on PATH.
        environment["PATH"] = f"{Path(sys.prefix) / 'bin'}:{environment.get('PATH', os.defpath)}"
        environment |= {
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "TMPDIR": str(temporary),
        }
        return environment

    async def stop(self) -> None:
        """End Triton (TERM, then KILL) and remove what it leaves behind.

        May be called again, and after a failed start.
        """
        process, self._process = self._process, None
        try:
            if process is not None:
                await self._end(process)
        finally:
            pump, self._pump = self._pump, None
            if pump is not None:
                # All who could write are gone: this reads the rest up to the end.
                await asyncio.wait({pump}, timeout=2)
                pump.cancel()
                await asyncio.gather(pump, return_exceptions=True)
            self._ready.clear()
            folder, self._folder = self._folder, None
            environments, self._environments = self._environments, set()
            await asyncio.to_thread(_clean, self._prefix, folder, environments)

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        try:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), self._stop_seconds)
        finally:
            # Whatever of its group is left: the server itself, or the models' processes of a server that
            # crashed.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def _environments() -> set[Path]:
    folder, pattern = ENVIRONMENTS
    return set(folder.glob(pattern))


def _clean(prefix: str, folder: Path | None, environments: set[Path]) -> None:
    for region in SHARED_MEMORY.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)
    for environment in environments:
        # Another server's that started meanwhile may be among them: only empty ones go.
        with contextlib.suppress(OSError):
            environment.rmdir()
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _wheel_flags(folder: Path, prefix: str) -> list[str]:
    return [
        f"--backend-directory={folder / 'backends'}",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        "--allow-gpu-metrics=false",
        "--allow-cpu-metrics=false",
    ]


def _tls_flags(tls: Tls) -> list[str]:
    return [
        "--grpc-use-ssl-mutual=true",
        f"--grpc-root-cert={tls.ca}",
        f"--grpc-server-cert={tls.cert}",
        f"--grpc-server-key={tls.key}",
    ]


def _wheel() -> Path:
    """The folder `pytriton/tritonserver` of the wheel, found without importing it."""
    try:
        found = metadata.distribution("nvidia-pytriton").locate_file("pytriton/tritonserver")
    except metadata.PackageNotFoundError as error:
        raise TritonStartError(
            "Triton is not installed: run `make setup`, or install the package nvidia-pytriton"
        ) from error
    wheel = Path(str(found))
    if not (wheel / "bin" / "tritonserver").is_file():
        raise TritonStartError(
            f"nvidia-pytriton holds no tritonserver under {wheel}: is this Linux on x86-64?"
        )
    return wheel


def _libpython_folder() -> Path:
    """The folder of the shared libpython that the stub is linked to."""
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    multiarch = sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu"
    places = [
        sysconfig.get_config_var("LIBDIR"),
        str(Path(sys.base_prefix) / "lib"),
        f"/usr/lib/{multiarch}",
        "/usr/lib64",
        "/usr/lib",
        "/usr/local/lib",
    ]
    for place in places:
        if place and (Path(place) / name).is_file():
            return Path(place)
    package = name.removesuffix(".so.1.0")
    raise TritonStartError(
        f"{name} is missing, which Triton's python backend needs: apt-get install {package}"
    )
