"""CPU time of a cluster's processes, from /proc."""

import os
from collections.abc import Iterable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def seconds(roots: Iterable[int]) -> float:
    """CPU seconds, user and system, of these processes and all below them so far."""
    wanted = set(roots)
    total, found = 0, True
    times: dict[int, tuple[int, int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended while we looked
                continue
            times[int(entry.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    while found:
        below = {pid for pid, (parent, _) in times.items() if parent in wanted and pid not in wanted}
        found = bool(below)
        wanted |= below
    total = sum(times[pid][1] for pid in wanted if pid in times)
    return total / _TICKS
