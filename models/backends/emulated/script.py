"""What the emulated pair says behind a prompt: the same prompt has the same reply, in any order of calls."""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

from .profile import Behaviour, Role
from .words import ASTRAY, BEST, BLANK, CLOSE, END, NEGATIVE, NEWLINE, POSITIVE, SOUND, WORDS, WORST

_ASSISTANT, _USER, _THINK = "<|assistant|>", "<|user|>", "<think>\n"


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt, taken apart.

    Attributes:
        session: stands for the question, not its images: a bench asks it with other files of the same pixels.
        steps: texts of the steps so far.
        instruction: what the judge is asked; empty otherwise.
        closed: the reasoning is over, and the answer is due.
    """

    session: str
    steps: tuple[str, ...]
    instruction: str
    closed: bool

    @classmethod
    def of(cls, text: str) -> "Asked":
        """From a rendered prompt."""
        opening, _, rest = text.partition(_ASSISTANT)
        thought, turn, last = rest.removeprefix(_THINK).partition(f"{END}{_USER}")
        session = hashlib.blake2b(opening.encode(), digest_size=8).hexdigest()
        steps = tuple(thought.split(BLANK)[:-1])
        instruction = last.partition(END)[0] if turn else ""
        return cls(session, steps, instruction, closed=CLOSE in thought and not turn)


class Script:
    """Writes for one role."""

    def __init__(self, role: Role, behaviour: Behaviour) -> None:
        self._role = role
        self._behaviour = behaviour

    def reply(self, asked: Asked) -> Iterator[tuple[str, float]]:
        """The pieces to say, each with its probability, until the end of the sequence."""
        if asked.instruction:
            yield self._verdict(asked)
            yield END, 1.0
            return
        if not asked.closed:
            last = self._count(asked.session) - 1
            for index in range(len(asked.steps), last + 1):
                yield from ((piece, 1.0) for piece in self._step(asked.session, index))
                if index < last:
                    yield BLANK, 1.0
            yield NEWLINE, 1.0
            yield CLOSE, 1.0
            yield BLANK, 1.0
        yield self.answer(asked), 1.0
        yield END, 1.0

    @staticmethod
    def answer(asked: Asked) -> str:
        """The answer, which both models know."""
        return f" w{_draw(asked.session, 'answer').randrange(WORDS)}"

    def _count(self, session: str) -> int:
        return _draw(session, "steps").randint(*self._behaviour.steps)

    def _step(self, session: str, index: int) -> list[str]:
        own = self._words(session, index, "target", 1.0)
        if self._role == "target":
            return [*own, SOUND]
        behaviour, luck = self._behaviour, _draw(session, f"luck {index}").random()
        if luck < behaviour.equal:
            return [*own, SOUND]
        words = self._words(session, index, "draft", behaviour.draft_step_share)
        return [*words, SOUND if luck < behaviour.acceptance else ASTRAY]

    def _words(self, session: str, index: int, role: str, share: float) -> list[str]:
        chance = _draw(session, f"{role} {index}")
        length = _draw(session, f"length {index}").randint(*self._behaviour.step_tokens)
        # The mark and the delimiter are the step's last two tokens.
        return [f" w{chance.randrange(WORDS)}" for _ in range(max(1, round(length * share) - 2))]

    def _verdict(self, asked: Asked) -> tuple[str, float]:
        right = bool(asked.steps) and SOUND in asked.steps[-1]
        by_digit = f"{WORST} to {BEST}" in asked.instruction
        yes, no = (BEST, WORST) if by_digit else (POSITIVE, NEGATIVE)
        return (yes if right else no), 0.95


def _draw(session: str, what: str) -> random.Random:
    return random.Random(f"{session}|{what}")
