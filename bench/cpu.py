"""CPU time of a cluster's processes, from /proc."""

import os
from collections.abc import Iterable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def tree(roots: Iterable[int]) -> set[int]:
    """These processes and all below them."""
    return set(_times(roots))


def seconds(roots: Iterable[int]) -> float:
    """CPU seconds, user and system, of these processes and all below them so far."""
    return sum(_times(roots).values()) / _TICKS


def _times(roots: Iterable[int]) -> dict[int, int]:
    """Clock ticks by process."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended while we looked
            continue
        pid = int(entry.name)
        parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    members = {pid for pid in roots if pid in ticks}
    while below := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= below
    return {pid: ticks[pid] for pid in members}
