"""The stack on a Docker engine, driven through docker-compose as a user would."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreamr.cluster.ports import free_port

COMPOSE = Path("compose")
BUILD_SECONDS, HEALTH_SECONDS = 3600, 600


class Stack:
    """One project of docker-compose.

    Args:
        project: its name, by which it is told from others.
        files: names of compose files, the first one's overlays behind it.
        environment: what the files are to find set.
    """

    def __init__(self, project: str, files: Sequence[str], environment: dict[str, str]) -> None:
        self.project = project
        self._files = [word for name in files for word in ("-f", str(COMPOSE / name))]
        self._environment = {**os.environ, **environment}

    def compose(self, *arguments: str, seconds: float = 300) -> str:
        """What `docker-compose` says; an error of it is raised with its words."""
        return self._run([*compose_command(), "-p", self.project, *self._files, *arguments], seconds)

    def up(self, *arguments: str) -> None:
        """Starts what is not there yet; an error of it is raised with the containers' last words."""
        try:
            self.compose("up", "-d", *arguments, seconds=600)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.compose('logs', '--tail=40')}") from None

    def docker(self, *arguments: str) -> str:
        """What `docker` says."""
        return self._run(["docker", *arguments], 120)

    def containers(self, service: str = "") -> dict[str, dict[str, Any]]:
        """What the engine knows of the project's containers, by name."""
        labels = [f"project={self.project}", *([f"service={service}"] if service else [])]
        filters = [word for label in labels for word in ("--filter", f"label=com.docker.compose.{label}")]
        found = self.docker("ps", "--all", "--quiet", *filters).split()
        inspected = json.loads(self.docker("inspect", *found)) if found else []
        return {one["Name"].lstrip("/"): one for one in inspected}

    def wait_until_healthy(self, count: int, exited: int = 0) -> None:
        """Returns when so many containers run, in good health if they tell it, and so many have exited."""
        deadline = time.monotonic() + HEALTH_SECONDS
        while True:
            states = {name: health(one) for name, one in self.containers().items()}
            running = [state for state in states.values() if state != "exited"]
            well = set(running) <= {"healthy", "running"}
            if well and len(running) == count and len(states) == count + exited:
                return
            if time.monotonic() > deadline:
                logs = self.compose("logs", "--tail=40")
                raise AssertionError(f"not healthy in {HEALTH_SECONDS} s: {states}\n{logs}")
            # The engine tells nobody of a change in health: it has to be asked again.
            time.sleep(1)

    def metric(self, container: str, name: str, port: int = 9100) -> float:
        """The sum of a metric's samples in a container's service."""
        script = (
            f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}/metrics').read().decode())"
        )
        text = self.docker("exec", container, "python", "-c", script)
        lines = [line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def left_behind(self) -> list[str]:
        """Containers, networks and volumes of the project that still are there."""
        mine = ("--quiet", "--filter", f"label=com.docker.compose.project={self.project}")
        return [
            *self.docker("ps", "--all", *mine).split(),
            *self.docker("network", "ls", *mine).split(),
            *self.docker("volume", "ls", *mine).split(),
        ]

    def _run(self, command: list[str], seconds: float) -> str:
        done = subprocess.run(
            command, capture_output=True, text=True, env=self._environment, timeout=seconds, check=False
        )
        if done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout


def health(container: dict[str, Any]) -> str:
    """A container's health, or what it does where it has no health or does not run."""
    state = container["State"]
    return str(state["Health"]["Status"] if state["Running"] and "Health" in state else state["Status"])


def free_ports(count: int) -> list[int]:
    """So many different ones."""
    found: list[int] = []
    while len(found) < count:
        found.append(free_port("127.0.0.1", found))
    return found


def published(ports: Sequence[int]) -> dict[str, str]:
    """What publishes the two gateways at these: for gRPC, and for HTTP."""
    names = ("DREAMR_PORT", "DREAMR_PORT_2", "DREAMR_HTTP_PORT", "DREAMR_HTTP_PORT_2")
    return {name: str(port) for name, port in zip(names, ports, strict=True)}


def compose_command() -> list[str]:
    """Compose v2 where docker has it, else v1; nothing if neither is there."""
    if shutil.which("docker"):
        found = subprocess.run(["docker", "compose", "version"], capture_output=True, timeout=30, check=False)
        if found.returncode == 0:
            return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else []


def missing() -> str:
    """What a test on an engine lacks here; empty if it lacks nothing."""
    if not compose_command():
        return "neither `docker compose` nor `docker-compose` is installed"
    try:
        found = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        return "docker is not installed"
    return f"no Docker engine answers: {found.stderr.strip()}" if found.returncode else ""
