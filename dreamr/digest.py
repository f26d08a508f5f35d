"""What a commit says, in 32 bytes: by it a gateway sees whether a session is still the one a client knows."""

import hashlib

from dreamr.v1 import gateway_pb2


def commit_digest(commit: gateway_pb2.Commit) -> bytes:
    """SHA-256 of index, author and text, as `ResumeRequest.last_commit_digest` has it."""
    return hashlib.sha256(f"{commit.index}\n{commit.author}\n{commit.step.text}".encode()).digest()
