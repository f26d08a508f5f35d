"""Bad requests by the thousand against a real cluster, and what became of them."""

import asyncio
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.fuzz.cases import GRPC_SAYS, Call, Case, make
from bench.fuzz.health import Health
from bench.fuzz.send import HANG, Outcome, Sender
from dreamr.cluster.authority import Authority
from dreamr.cluster.cluster import Cluster
from dreamr.tls import ROLES, SERVICES

QUICK = f"emulated:{Path(__file__).parent / 'quick.toml'}"
"""A pair that takes next to no time: what a bad request starts by mistake is soon over."""

BAD = ("hangs", "internals", "unexpected", "crashes", "not_working", "grown", "logged")
EXAMPLES = 10
CHECKED_EVERY = 2_000
WARM_UP = 0.25
"""Of the requests, behind which memory is to be flat."""

_SETTINGS = {
    "DREAMR_GATEWAY_SESSION_TTL_SECONDS": "20",
    **{f"DREAMR_{service.upper()}_LOG_FORMAT": "json" for service in SERVICES},
    **{f"DREAMR_{service.upper()}_MAX_CALL_SECONDS": "15" for service in SERVICES},
}


@dataclass(slots=True)
class Found:
    """What there is to tell of one cluster."""

    statuses: dict[str, dict[str, Counter[str]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(Counter))
    )
    bad: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in BAD})
    by_grpc: Counter[str] = field(default_factory=Counter)
    sizes: dict[str, Any] = field(default_factory=dict)
    resident: dict[str, list[float]] = field(default_factory=dict)

    def add(self, case: Case, outcome: Outcome) -> None:
        self.statuses[case.service][case.kind][outcome.status] += 1
        by_grpc = outcome.status == "INTERNAL" and outcome.detail.startswith(GRPC_SAYS)
        if by_grpc:
            self.by_grpc[outcome.detail.split(" (")[0][:60]] += 1
        if outcome.status in case.allowed and (by_grpc or outcome.status != "INTERNAL"):
            return
        if outcome.status in (HANG, "open"):
            name = "hangs"
        else:
            name = "internals" if outcome.status in ("INTERNAL", "UNKNOWN") else "unexpected"
        self.bad[name].append(
            {
                "seed": case.seed,
                "service": case.service,
                "kind": case.kind,
                "caller": case.caller,
                "method": case.sent.path if isinstance(case.sent, Call) else "",
                "status": outcome.status,
                "detail": outcome.detail[:500],
                "again": f"dreamr fuzz --requests 1 --seed {case.seed} "
                + ("--tls" if case.caller else "--no-tls"),
            }
        )


async def fuzz(
    requests: int,
    seed: int,
    *,
    pair: str = QUICK,
    tls: bool | None = None,
    at_once: int = 24,
    on_request: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Sends bad requests to all services of a cluster without TLS, and of one with it.

    Args:
        requests: how many; half of them with TLS.
        seed: of the first request; the next ones count up.
        tls: both halves with it, or without it.
        at_once: requests at the same time.
        on_request: told after each one.
    """
    half = (requests + 1) // 2
    parts = {False: range(seed, seed + half), True: range(seed + half, seed + requests)}
    if tls is not None:
        parts = {tls: range(seed, seed + requests)}
    report: dict[str, Any] = {"requests": requests, "seed": seed, "pair": Path(pair).stem}
    bad: dict[str, list[Any]] = {name: [] for name in BAD}
    for encrypted, seeds in parts.items():
        if not seeds:
            continue
        began = time.monotonic()
        found = await _cluster(seeds, pair, at_once, on_request, tls=encrypted)
        name = "tls" if encrypted else "plaintext"
        report[name] = {
            "requests": len(seeds),
            "seconds": round(time.monotonic() - began, 1),
            "statuses": {
                service: {kind: dict(sorted(counts.items())) for kind, counts in sorted(kinds.items())}
                for service, kinds in sorted(found.statuses.items())
            },
            "internal_by_grpc": dict(found.by_grpc.most_common()),
            "sizes": found.sizes,
            "resident_mib": found.resident,
        }
        for key, entries in found.bad.items():
            bad[key] += entries
    report |= {name: len(entries) for name, entries in bad.items()}
    report["examples"] = {name: entries[:EXAMPLES] for name, entries in bad.items() if entries}
    return report


async def _cluster(
    seeds: range, pair: str, at_once: int, on_request: Callable[[], None], *, tls: bool
) -> Found:
    found = Found()
    with tempfile.TemporaryDirectory(prefix="dreamr-fuzz-") as scratch:
        folder = Path(scratch)
        certificates, strange = (
            (_issue(folder / name) if tls else None) for name in ("certificates", "strange")
        )
        logs = folder / "logs"
        async with (
            Cluster(pair=pair, settings=_SETTINGS, keep_logs=logs, tls=certificates) as cluster,
            Sender(cluster.addresses, certificates, strange) as sender,
        ):
            health = Health(cluster, logs)
            if broken := await health.works(sender):
                raise RuntimeError("; ".join(broken))
            warm = int(len(seeds) * WARM_UP)
            await _send(seeds[:warm], sender, found, at_once, on_request)
            await sender.hang_up()
            await health.remember()
            for start in range(warm, len(seeds), CHECKED_EVERY):
                part = seeds[start : start + CHECKED_EVERY]
                await _send(part, sender, found, at_once, on_request)
                found.bad["crashes"] += [f"{words}, by seed {part[-1]}" for words in health.gone()]
                found.bad["not_working"] += await health.works(sender)
                await health.note()
                if found.bad["crashes"] or found.bad["not_working"]:
                    break
            await sender.hang_up()
            found.sizes, found.bad["grown"] = await health.grown()
            found.resident = health.resident
            found.bad["logged"] = health.logged()
    return found


async def _send(
    seeds: range, sender: Sender, found: Found, at_once: int, on_request: Callable[[], None]
) -> None:
    """All of these, some at a time."""
    coming: Iterator[int] = iter(seeds)

    async def some() -> None:
        for seed in coming:
            case = make(seed, tls=sender.encrypted)
            found.add(case, await sender.send(case))
            on_request()

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(some())


def _issue(folder: Path) -> Path:
    """Certificates of all roles, by a CA of their own."""
    folder.mkdir()
    authority = Authority.at(folder)
    for role in ROLES:
        authority.issue(folder, role, days=1)
    return folder
