"""`python -m bench.chaos.fight`: two gateways fight for the same sessions, and Redis' log tells how.

In turn one of the two is frozen for longer than its leases last, the other takes its sessions over, and the
first one wakes up and goes on as if they were still its own. Each session has a client at either gateway.
"""

import argparse
import asyncio
import itertools
import json
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from bench.chaos.ledger import Ledger
from bench.chaos.watched import BAD, Listener, Watched, faults_of, watch
from bench.questions import Question, held_out
from dreamr.cluster.cluster import Cluster
from dreamr.events import Session, session_from_proto
from dreamr.v1 import gateway_pb2

PAIR = f"emulated:{Path(__file__).with_name('quick.toml')}"
LEASE_SECONDS = 0.4
FEWEST = 2
"""A session that went to another owner less often does not count: it was not fought for."""
_FROZEN_SECONDS, _AWAKE_SECONDS = 0.9, 0.2
_ANSWER_SECONDS, _STORED_TENTHS = 300.0, 100
_ENOUGH = 100
"""Of so many sessions that were fought for, some owner must have tried to append under a stale fence."""


async def fight(times: int, *, at_once: int, seed: int) -> dict[str, Any]:
    """Sessions until so many were fought for; what the log and the clients say of them all."""
    questions = itertools.cycle(held_out(min(times, 200), seed))
    settings = {"DREAMR_GATEWAY_LEASE_SECONDS": str(LEASE_SECONDS), "log_level": "ERROR"}
    ledger, found, fought = Ledger(), list[tuple[str, Watched]](), 0
    async with Cluster(pair=PAIR, gateways=2, settings=settings) as cluster, AsyncExitStack() as stack:
        one, other = [
            await stack.enter_async_context(
                Listener(address, timeout=_ANSWER_SECONDS, resume_seconds=_ANSWER_SECONDS)
            )
            for address in cluster.gateways
        ]
        turns = itertools.cycle([(one, other), (other, one)])
        bar = stack.enter_context(tqdm(total=times, unit="session"))

        async def ask_on() -> None:
            nonlocal fought
            while fought < times:
                both = await _contend(*next(turns), next(questions))
                found.extend((both[0].session_id, seen) for seen in both)
                if ledger.takeovers[both[0].session_id] >= FEWEST:
                    fought += 1
                    bar.update()

        async with ledger.listening(cluster.addresses["redis"]):
            fighting = asyncio.create_task(_freeze_in_turn(cluster))
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(at_once):
                        group.create_task(ask_on())
            finally:
                fighting.cancel()
                await asyncio.wait([fighting])
            # A session is finished in the store only once its client has heard the answer.
            for _ in range(_STORED_TENTHS):
                if all(ledger.end(session_id) for session_id, _ in found):
                    break
                await asyncio.sleep(0.1)
    bad = sum((faults_of(seen, _logged(ledger, session_id)) for session_id, seen in found), Counter())
    takeovers = [ledger.takeovers[session_id] for session_id, _ in found[::2]]
    return {
        "sessions": len(takeovers),
        "fought": fought,
        "seed": seed,
        "takeovers": sum(takeovers),
        "takeovers_of_a_session": {"median": median(takeovers), "most": max(takeovers)},
        "refused": dict(ledger.refused),
        "clients": len(found),
        **{name: bad[name] for name in BAD},
        "wrong": ledger.wrong,
        "failures": sorted({seen.failure for _, seen in found if seen.failure}),
    }


async def _contend(one: Listener, other: Listener, question: Question) -> tuple[Watched, Watched]:
    """One client asks, and as soon as the session has begun another follows it at the other gateway."""
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def follow() -> Watched:
        return await watch(other, other.resume(await started))

    async with asyncio.TaskGroup() as group:
        follows = group.create_task(follow())
        seen = await watch(one, one.reason(question.text, images=[question.image]), started.set_result)
        if not started.done():
            raise RuntimeError(f"a session did not begin: {seen.failure}")
    return seen, follows.result()


async def _freeze_in_turn(cluster: Cluster) -> None:
    for name in itertools.cycle(("gateway", "gateway-2")):
        await asyncio.sleep(_AWAKE_SECONDS)
        cluster.part(name).signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(_FROZEN_SECONDS)
        finally:
            cluster.part(name).signal(signal.SIGCONT)


def _logged(ledger: Ledger, session_id: str) -> Session:
    """A session as the log has it."""
    status, outcome = ledger.end(session_id) or ("running", b"")
    return session_from_proto(
        gateway_pb2.GetSessionResponse(
            status=f"SESSION_STATUS_{status.upper()}",
            commits=[gateway_pb2.Commit.FromString(step) for step in ledger.steps(session_id)],
            finished=gateway_pb2.Finished.FromString(outcome) if outcome else None,
        )
    )


def problems(report: Mapping[str, Any]) -> list[str]:
    """What is wrong with a fight, in words."""
    found = [*report["wrong"], *(f"{name}: {report[name]}" for name in BAD if report[name])]
    if report["fought"] >= _ENOUGH and not report["refused"].get("append"):
        found.append("nobody tried to append under a stale fence")
    return found


def main() -> None:
    """Runs the command; exits with 1 where owners' steps were mixed, a client heard what was not kept, or
    nothing was fought for.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=1000, help="sessions that are fought for")
    parser.add_argument("--at-once", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the report to this file")
    arguments = parser.parse_args()
    report = asyncio.run(fight(arguments.times, at_once=arguments.at_once, seed=arguments.seed))
    text = json.dumps(report, indent=2) + "\n"
    if arguments.json:
        arguments.json.write_text(text)
    sys.stdout.write(text)
    if found := problems(report):
        raise SystemExit("; ".join(found))


if __name__ == "__main__":
    main()
