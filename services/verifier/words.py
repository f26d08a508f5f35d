"""Which next tokens are the judge's words: found in the target's tokenizer, or told by their texts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tokenizers import Tokenizer

from services.verifier.evidence import Token, word_of

TOKENIZER = "tokenizer.json"
_FEWEST_LETTERS = 2


@dataclass(frozen=True, slots=True)
class Words:
    """A word for and a word against, in any case and with any leading space.

    Attributes:
        ids: tokens of the positive and of the negative word; None to go by the tokens' texts, which finds a
            word that is one token and no other.

    Raises:
        ValueError: the words are the same.
    """

    positive: str
    negative: str
    ids: tuple[frozenset[int], frozenset[int]] | None = None

    def __post_init__(self) -> None:
        if word_of(self.positive) == word_of(self.negative):
            raise ValueError("the positive and the negative word must differ")

    @classmethod
    def find(cls, positive: str, negative: str, folder: Path) -> Self:
        """By the `tokenizer.json` of a Hugging Face folder; where it has none, by texts.

        Raises:
            ValueError: the file cannot be read, has no token for a word, or begins both with the same one.
        """
        path = folder / TOKENIZER
        if not path.exists():
            return cls(positive, negative)
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more particular
            raise ValueError(f"{path}: {error}") from error
        texts = dict(enumerate(_texts(tokenizer)))
        pro, contra = (_variants(tokenizer, texts, word) for word in (positive, negative))
        for word, found in ((positive, pro), (negative, contra)):
            if not found:
                raise ValueError(f"{path} has no token that begins the judge's word {word!r}")
        if pro & contra:
            raise ValueError(f"{path} begins {positive!r} and {negative!r} with the same token")
        return cls(positive, negative, (pro, contra))

    def speaks_for(self, token: Token) -> bool:
        """Whether it is the positive word."""
        return token.id in self.ids[0] if self.ids else word_of(token.text) == word_of(self.positive)

    def speaks_against(self, token: Token) -> bool:
        """Whether it is the negative word."""
        return token.id in self.ids[1] if self.ids else word_of(token.text) == word_of(self.negative)


def _texts(tokenizer: Tokenizer) -> list[str]:
    """What each token of the vocabulary says by itself."""
    size: int = max(tokenizer.get_vocab().values()) + 1
    texts: list[str] = tokenizer.decode_batch([[number] for number in range(size)], skip_special_tokens=False)
    return texts


def _variants(tokenizer: Tokenizer, texts: dict[int, str], word: str) -> frozenset[int]:
    """Tokens that are the word in any case, with or without a space before it.

    A word that is no token by itself is known by the first ones of its spellings, where they are more than a
    letter: behind the instruction nothing else is likely to begin so.
    """
    plain = word_of(word)
    if whole := frozenset(number for number, text in texts.items() if word_of(text) == plain):
        return whole
    spellings = [f"{space}{form}" for form in (word, word.capitalize(), word.upper()) for space in ("", " ")]
    first = {
        encoding.ids[0]
        for encoding in tokenizer.encode_batch(spellings, add_special_tokens=False)
        if encoding
    }
    begun = {number: word_of(texts[number]) for number in first}
    # The token of unknown words begins none.
    return frozenset(
        number for number, text in begun.items() if len(text) >= _FEWEST_LETTERS and plain.startswith(text)
    )
