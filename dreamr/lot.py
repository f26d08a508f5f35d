"""Draws a share of the sessions, the same ones everywhere."""

import hashlib


def lot(session_id: str, what: str) -> float:
    """A session's place within 0..1, excluding 1; places for one thing say nothing of those for another.

    Args:
        what: that is drawn for, 16 bytes at most.
    """
    digest = hashlib.blake2b(session_id.encode(), digest_size=8, person=what.encode()).digest()
    return int.from_bytes(digest) / (1 << 64)
