"""Text as it is generated.

Tokens become text incrementally, stop strings end it, and nothing is shown too early.
"""

from collections.abc import Callable, Sequence


class Detokenizer:
    """Turns token ids into text one at a time; holds back bytes of an unfinished character.

    `decode` maps ids to text. The tokens around the end of the text are decoded together, since a
    tokenizer may write a token otherwise at the start of a text than within it.
    """

    __slots__ = ("_decode", "_known", "_window")
    _CONTEXT = 5

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt_ids: Sequence[int]) -> None:
        self._decode = decode
        self._window = list(prompt_ids[-self._CONTEXT :])
        self._known = decode(self._window)

    def push(self, token: int) -> str:
        """The text that `token` adds: empty while a character is unfinished."""
        self._window.append(token)
        text = self._decode(self._window)
        if text.endswith("�") or len(text) < len(self._known):
            return ""
        added = text[len(self._known) :]
        # Keep the window short: enough context for the next token, never cutting an unfinished character.
        if len(self._window) > 3 * self._CONTEXT:
            self._window = self._window[-self._CONTEXT :]
            self._known = self._decode(self._window)
        else:
            self._known = text
        return added


class StopText:
    """The text of one answer: grows, ends at the first stop string, and says how much of it is certain."""

    __slots__ = ("_include", "_longest", "_stops", "stopped_by", "text")

    def __init__(self, stops: Sequence[str], include: bool) -> None:
        self._stops = tuple(stops)
        self._include = include
        self._longest = max((len(stop) for stop in self._stops), default=0)
        self.text = ""
        self.stopped_by: str | None = None

    def push(self, added: str, active: bool = True) -> bool:
        """Append text.

        True when a stop string ended it (the text is cut there). Not `active`: too early to stop.
        """
        if not added:
            return False
        before = len(self.text)
        self.text += added
        if not active or not self._stops:
            return False
        found = min(
            (
                (start, -len(stop), stop)
                for stop in self._stops
                # A stop must end within what is new: what came too early to stop stays.
                if (start := self.text.find(stop, max(0, before - len(stop) + 1))) >= 0
            ),
            default=None,
        )
        if found is None:
            return False
        start, _, stop = found
        self.stopped_by = stop
        self.text = self.text[: start + len(stop)] if self._include else self.text[:start]
        return True

    @property
    def certain(self) -> int:
        """How many characters can be shown: the end may turn out to be the beginning of a stop string."""
        if self.stopped_by is not None or self._include:
            return len(self.text)
        for length in range(min(self._longest - 1, len(self.text)), 0, -1):
            tail = self.text[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return len(self.text) - length
        return len(self.text)
