"""The emulated pair's vocabulary: words that mean nothing, and marks that do."""

import re
import zlib
from collections.abc import Sequence

END, BLANK, CLOSE, NEWLINE = "<|end|>", "\n\n", "</think>", "\n"
POSITIVE, NEGATIVE, BEST, WORST = "positive", "negative", "9", "0"
SOUND, ASTRAY = " sound", " astray"
WORDS = 400

_MARKS = (END, BLANK, CLOSE, NEWLINE, POSITIVE, NEGATIVE, BEST, WORST, SOUND, ASTRAY)
PIECES = (*_MARKS, *(f" w{number}" for number in range(WORDS)))
IDS = {piece: number for number, piece in enumerate(PIECES)}
_PATTERN = re.compile(r"\n\n|</?think>|<\|?[a-z]+\|?>|\n| ?[^\s<]+|\s|<")


def ids_of(text: str) -> list[int]:
    """Token ids; a piece that is no word of ours has one too, so that prompts differ where their texts do."""
    return [IDS.get(piece, len(PIECES) + zlib.crc32(piece.encode())) for piece in _PATTERN.findall(text)]


def text_of(ids: Sequence[int]) -> str:
    """The text of ids that the pair has written; END is not shown."""
    return "".join(PIECES[number] for number in ids if 0 < number < len(PIECES))
