"""Whether a cluster is still what it was: its processes, their sizes, what they log, and that they work."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

from bench.fuzz.cases import Call, Case
from bench.fuzz.requests import caller_of, good
from bench.fuzz.send import Sender
from bench.soak import Sizes, sizes
from dreamr.cluster.cluster import Cluster
from dreamr.tls import SERVICES

# Growth from behind the warm-up to the end that counts as flat. Prompts of 256 questions are kept, which have
# up to 32,000 characters of four bytes each, and allocators keep some of the largest messages and images:
# sizes go up and down by 20 MiB. In a run of 100,000 a leak of 5 KiB a request shows.
SPARE = {"mib": 48.0, "descriptors": 4.0, "tasks": 2.0}
MAX_LINE_BYTES = 8_192
"""Of a line in a log: whoever calls must not write as much as they like."""

_LOOKS, _LOOK_SECONDS = 60, 0.5
_JSON = json.JSONDecoder()
_GRPC_LINE = re.compile(rb"[EF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ \w+\.cc:\d+\] [ -~]*$")


class Health:
    """Watches one cluster.

    Attributes:
        resident: MiB of each part, since they were remembered and at each note.
    """

    def __init__(self, cluster: Cluster, logs: Path) -> None:
        self._cluster = cluster
        self._logs = logs
        self._pids = cluster.pids()
        self._before: Sizes = {}
        self.resident: dict[str, list[float]] = {}

    async def works(self, sender: Sender) -> list[str]:
        """What does not answer a good request as it should, in words."""
        found = []
        for service in SERVICES:
            for path, request in good(service):
                caller = caller_of(service)
                case = Case(-1, "good", service, caller, Call(path, request), frozenset({"OK"}))
                outcome = await sender.send(case)
                if outcome.status != "OK":
                    found.append(f"{service}: a good {path}: {outcome.status} {outcome.detail}")
        return found

    def gone(self) -> list[str]:
        """Processes that ended, or were started anew, in words."""
        now = self._cluster.pids()
        return [f"{name} (pid {pid}) has ended" for name, pid in self._pids.items() if now.get(name) != pid]

    async def remember(self) -> None:
        """Takes the sizes that the end is compared with, once connections that were dropped are closed."""
        self._before = await sizes(self._cluster)
        for _ in range(_LOOKS):
            # The kernel tells nobody that another process has closed a descriptor.
            await asyncio.sleep(_LOOK_SECONDS)
            before, self._before = self._before, await sizes(self._cluster)
            if _descriptors(before) == _descriptors(self._before):
                break
        self.resident = {}
        await self.note()

    async def note(self) -> None:
        """Takes what is resident now."""
        for name, size in (await sizes(self._cluster)).items():
            self.resident.setdefault(name, []).append(round(size["mib"], 1))

    async def grown(self) -> tuple[dict[str, Any], list[str]]:
        """Sizes of each part before and now, and what of the services has grown, in words.

        Waits a while: connections that a client has dropped are closed when that is seen, and sessions go on
        to their deadlines.
        """
        for _ in range(_LOOKS):
            now = await sizes(self._cluster)
            if not (found := self._more(now)):
                break
            await asyncio.sleep(_LOOK_SECONDS)
        report = {
            name: {
                key: [round(self._before[name][key], 1), round(now[name][key], 1)]
                for key in SPARE
                if key in now[name]
            }
            for name in now
            if name in self._before
        }
        return report, found

    def _more(self, now: Sizes) -> list[str]:
        return [
            f"{name}: {more:.0f} {key} more, over {spare:g}"
            for name in SERVICES
            for key, spare in SPARE.items()
            if (more := now[name][key] - self._before[name][key]) > spare
        ]

    def logged(self) -> list[str]:
        """What the services' logs should not have, in words."""
        found = []
        for service in SERVICES:
            lines = (self._logs / f"{service}.log").read_bytes().splitlines()
            for before, line in zip([b"", *lines], lines, strict=False):
                if len(line) > MAX_LINE_BYTES:
                    found.append(f"{service}: a line of {len(line):,} bytes: {line[:200]!r}")
                elif line.startswith(b"{"):
                    found += self._trouble(service, before, line)
                elif line and not _GRPC_LINE.match(line):
                    found.append(f"{service}: no line of ours: {line!r} behind {before!r}")
        return found

    def _trouble(self, service: str, before: bytes, line: bytes) -> list[str]:
        try:
            # gRPC's own lines may stand right behind ours.
            entry, _ = _JSON.raw_decode(line.decode(errors="replace"))
        except ValueError:
            return [f"{service}: no line of ours: {line!r} behind {before!r}"]
        if entry["level"] in ("error", "critical"):
            return [f"{service}: {entry['event']} {entry.get('exception', '')}"[-1_000:]]
        return []


def _descriptors(found: Sizes) -> dict[str, float]:
    return {name: found[name]["descriptors"] for name in SERVICES if name in found}
