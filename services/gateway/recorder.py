"""Sessions as training data: candidates, verdicts and rivals, for those who asked for it. Off by default.

Each gateway writes a file of its own in the folder, with the images beside it, in the form that `dreamr sapo
--questions` reads: the answer stands for the right one.
"""

import asyncio
import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from dreamr.lot import lot
from services.gateway.messages import Event, Judged, RivalDone, Start, StartRival, StartVerdict

log = structlog.get_logger()

MAX_ENTRIES = 1024
"""Of candidates and of rivals in one session; what comes behind is not recorded."""


@dataclass(slots=True)
class Recording:
    """What one session is remembered by."""

    question: str
    images: Sequence[bytes]
    candidates: list[dict[str, Any]] = field(default_factory=list)
    rivals: list[dict[str, Any]] = field(default_factory=list)
    _behind: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def note(self, start: Start, event: Event) -> None:
        """Takes what became of a call of the session."""
        match start, event:
            case StartVerdict(), Judged(_, verdict) if len(self.candidates) < MAX_ENTRIES:
                self.candidates.append(
                    {
                        "index": start.index,
                        "prefix": start.prefix,
                        "text": start.candidate.text,
                        "closes": start.candidate.closes,
                        "version": start.candidate.version,
                        "accept": verdict.accept,
                        "reason": verdict.reason.value,
                        "score": verdict.score,
                        "alpha": verdict.alpha,
                    }
                )
            case StartRival(call), RivalDone(_, step) if len(self.rivals) < MAX_ENTRIES:
                # One call may write a step behind the other.
                prefix = self._behind.get(call, start.prefix)
                self._behind[call] = (*prefix, step.text)
                self.rivals.append(
                    {
                        "index": len(prefix),
                        "prefix": prefix,
                        "text": step.text,
                        "closes": step.closes,
                        "tokens": step.tokens,
                    }
                )


class Recorder:
    """Records a share of the sessions until its folder is full.

    Args:
        folder: made if it is not there, for its user alone.
        share: of the sessions, 0 to 1, by their ids.
        max_bytes: of all that is in the folder, images included.
    """

    def __init__(self, folder: Path, share: float, max_bytes: int) -> None:
        self._folder = folder
        self._share = share
        self._max_bytes = max_bytes
        self._lock = asyncio.Lock()
        images = folder / "images"
        images.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        self._file = folder / f"sessions-{uuid.uuid4().hex[:12]}.jsonl"
        self._bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    def begin(self, session_id: str, question: str, images: Sequence[bytes]) -> Recording | None:
        """A session's recording; None for one that is not drawn, or when the folder is full."""
        if lot(session_id, "record") >= self._share or self._bytes >= self._max_bytes:
            return None
        return Recording(question, images)

    async def end(self, recording: Recording, answer: str) -> None:
        """Writes a session that has its answer; where that fails, it is told to the log alone."""
        async with self._lock:
            try:
                await asyncio.to_thread(self._write, recording, answer)
            except OSError as error:
                log.error("session not recorded", reason=str(error))

    def _write(self, recording: Recording, answer: str) -> None:
        names = [f"images/{hashlib.sha256(image).hexdigest()}" for image in recording.images]
        line = json.dumps(
            {
                "question": recording.question,
                "images": names,
                "answer": answer,
                "candidates": recording.candidates,
                "rivals": recording.rivals,
            }
        )
        fresh = {
            name: image
            for name, image in zip(names, recording.images, strict=True)
            if not (self._folder / name).exists()
        }
        size = len(line) + 1 + sum(map(len, fresh.values()))
        if self._bytes + size > self._max_bytes:
            log.warning("recording ends: the folder is full", bytes=self._bytes)
            self._bytes = self._max_bytes
            return
        for name, image in fresh.items():
            (self._folder / name).write_bytes(image)
        with os.fdopen(os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "w") as file:
            file.write(line + "\n")
        self._bytes += size
