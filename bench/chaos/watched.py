"""One session as it was told, stream by stream, and as its client has it; compared with what is stored."""

import asyncio
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from dreamr.client import AsyncClient
from dreamr.errors import DreamrError
from dreamr.events import Commit, Event, Finished, Session, Started
from dreamr.v1 import gateway_pb2, gateway_pb2_grpc

BAD = ("lost", "repeated", "reordered", "changed", "unanswered", "unfinished")


@dataclass(frozen=True, slots=True)
class Stream:
    """What one stream told.

    Attributes:
        first: the index that it was to begin with.
        commits: index and bytes of each, in order.
    """

    first: int
    commits: list[tuple[int, bytes]] = field(default_factory=list)


class Listener(AsyncClient):
    """A client that keeps what streams told, before it drops what it has already.

    Attributes:
        streams: by session.
    """

    def __init__(self, address: str, *, timeout: float, resume_seconds: float) -> None:
        super().__init__(address, timeout=timeout, resume_seconds=resume_seconds)
        self.streams: defaultdict[str, list[Stream]] = defaultdict(list)

    async def _stream(
        self,
        stub: "gateway_pb2_grpc.ReasoningServiceAsyncStub",
        request: gateway_pb2.ReasonRequest | None,
        session_id: str,
        commits: int,
        digest: bytes,
        seconds: float,
    ) -> AsyncGenerator[gateway_pb2.ReasonResponse, None]:
        stream = Stream(commits)
        told = super()._stream(stub, request, session_id, commits, digest, seconds)
        async with aclosing(told) as responses:
            async for response in responses:
                if response.HasField("started"):
                    self.streams[response.started.session_id].append(stream)
                elif response.HasField("commit"):
                    step = response.commit.SerializeToString(deterministic=True)
                    stream.commits.append((response.commit.index, step))
                yield response


@dataclass(slots=True)
class Watched:
    """What a client kept.

    Attributes:
        streams: what they told, whether the client had it already or not.
        longest_stall: seconds between two things that it heard.
        failure: why there was no answer.
        ended: when (`time.perf_counter`).
    """

    session_id: str = ""
    commits: list[Commit] = field(default_factory=list)
    finished: Finished | None = None
    streams: Sequence[Stream] = ()
    longest_stall: float = 0.0
    failure: str = ""
    ended: float = 0.0


async def watch(
    client: Listener,
    stream: AsyncGenerator[Event, None],
    on_started: Callable[[str], None] = lambda _: None,
    *,
    leaves: bool = False,
) -> Watched:
    """Hears a session of this client's to its end, and keeps everything.

    Args:
        on_started: told the session's id.
        leaves: behind the first commit.
    """
    found, heard = Watched(), time.perf_counter()
    try:
        async with aclosing(stream) as events:
            async for event in events:
                now = time.perf_counter()
                found.longest_stall, heard = max(found.longest_stall, now - heard), now
                if isinstance(event, Started):
                    found.session_id = event.session_id
                    on_started(event.session_id)
                elif isinstance(event, Commit):
                    found.commits.append(event)
                    if leaves:
                        break
                elif isinstance(event, Finished):
                    found.finished = event
    except DreamrError as error:
        found.failure = f"{type(error).__name__}: {error}"
    found.ended = time.perf_counter()
    found.streams = client.streams.pop(found.session_id, [])
    return found


async def watch_in_background(client: Listener, stream: AsyncGenerator[Event, None], away: float) -> Watched:
    """Leaves a session in the background behind its first commit, and comes back to it.

    Args:
        away: seconds; they are no stall.
    """
    left = await watch(client, stream, leaves=True)
    if left.finished or left.failure:
        return left
    await asyncio.sleep(away)
    found = await watch(client, client.resume(left.session_id))
    return replace(
        found,
        session_id=left.session_id,
        streams=[*left.streams, *found.streams],
        longest_stall=max(left.longest_stall, found.longest_stall),
    )


def faults_of(found: Watched, stored: Session | None, *, compared: bool = True) -> Counter[str]:
    """What must not be, in any stream or in what the client made of them all.

    Steps that were lost, repeated or out of order; steps, or an answer, of which there are two; a question
    without an answer; a session with an answer that is not stored as finished.

    Args:
        stored: as the store has the session behind its end; None where it is not there.
        compared: whether the store should have it.
    """
    bad = _disorder(0, [commit.index for commit in found.commits])
    told: defaultdict[int, set[bytes]] = defaultdict(set)
    for stream in found.streams:
        bad += _disorder(stream.first, [index for index, _ in stream.commits])
        for index, step in stream.commits:
            told[index].add(step)
    bad["changed"] += sum(len(steps) - 1 for steps in told.values())
    bad["unanswered"] += found.finished is None
    if compared:
        bad += _against(found, stored)
    return bad


def _disorder(first: int, indexes: Sequence[int]) -> Counter[str]:
    """What is wrong with an order that should be first, first + 1, and so on."""
    found = set(indexes)
    return Counter(
        repeated=len(indexes) - len(found) + sum(index < first for index in found),
        reordered=sum(later < earlier for earlier, later in itertools.pairwise(indexes)),
        lost=len(set(range(first, max(found, default=-1) + 1)) - found),
    )


def _against(found: Watched, stored: Session | None) -> Counter[str]:
    """What the client has and the store has not, or otherwise; with an answer, what the store has more."""
    kept = {step.index: step for step in stored.steps} if stored else {}
    seen = {commit.index: commit for commit in found.commits}
    more = {index for index in kept if index > max(seen, default=-1)} if found.finished else set()
    bad = Counter(
        lost=len(seen.keys() - kept.keys()) + len(more),
        changed=sum(kept[index] != seen[index] for index in seen.keys() & kept.keys()),
    )
    if found.finished and (not stored or stored.status != "finished" or not stored.finished):
        bad["unfinished"] += 1
    elif found.finished and stored and stored.finished:
        bad["changed"] += stored.finished.answer != found.finished.answer
    return bad
