"""What a session waited for, from the times of its commits: where the rest of the time goes."""

from dreamr.events import Answer

PARTS = ("draft", "verdict", "target", "answer", "outside")


def waited(answer: Answer, seconds: float) -> dict[str, float]:
    """Seconds of one session by what held up the next commit.

    Between two commits the session waits for the draft until the candidate is written, and then for its
    verdict; where the target's own step is committed, it was the target that was waited for. Behind the last
    commit comes the answer. `outside` is what the client saw beyond the session: front, store and network.

    Args:
        seconds: what the client saw.
    """
    found = dict.fromkeys(PARTS, 0.0)
    before = 0.0
    for step in answer.steps:
        if step.author == "draft":
            written = min(max(step.written, before), step.committed)
            found["draft"] += written - before
            found["verdict"] += step.committed - written
        else:
            found["target"] += step.committed - before
        before = step.committed
    found["answer"] = max(0.0, answer.seconds - before)
    found["outside"] = max(0.0, seconds - answer.seconds)
    return found
