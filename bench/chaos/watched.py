"""One session as its client saw it, compared with what is stored."""

import itertools
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from dreamr.errors import DreamrError
from dreamr.events import Commit, Event, Finished, Session, Started

BAD = ("lost", "repeated", "reordered", "unanswered")


@dataclass(slots=True)
class Watched:
    """What a client kept.

    Attributes:
        longest_stall: seconds between two things that it heard.
        failure: why there was no answer.
        ended: when (`time.perf_counter`).
    """

    session_id: str = ""
    commits: list[Commit] = field(default_factory=list)
    answered: bool = False
    longest_stall: float = 0.0
    failure: str = ""
    ended: float = 0.0


async def watch(
    stream: AsyncGenerator[Event, None], on_started: Callable[[str], None] = lambda _: None
) -> Watched:
    """Hears a session to its end, and keeps everything.

    Args:
        on_started: told the session's id.
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
                elif isinstance(event, Finished):
                    found.answered = True
    except DreamrError as error:
        found.failure = f"{type(error).__name__}: {error}"
    found.ended = time.perf_counter()
    return found


def faults_of(found: Watched, stored: Session | None, *, compared: bool = True) -> Counter[str]:
    """What must not be: steps that were lost, repeated or out of order, and a question without an answer.

    Args:
        stored: as the store has the session behind its end; None where it is not there.
        compared: whether the store should have it.
    """
    seen = [commit.index for commit in found.commits]
    bad: Counter[str] = Counter()
    bad["repeated"] = len(seen) - len(set(seen))
    bad["reordered"] = sum(later < earlier for earlier, later in itertools.pairwise(seen))
    bad["lost"] = len(set(range(max(seen, default=-1) + 1)) - set(seen))
    bad["lost"] += _missing(found.commits, stored) if compared else 0
    bad["unanswered"] = int(not found.answered)
    return bad


def _missing(commits: Sequence[Commit], stored: Session | None) -> int:
    """Commits that the client has and the store has not, or not so."""
    kept = {step.index: step.text for step in stored.steps} if stored else {}
    return sum(kept.get(commit.index) != commit.text for commit in commits)
