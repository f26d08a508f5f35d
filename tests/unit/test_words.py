"""The judge's words are found in the target's tokenizer: every spelling that is a token, and no other."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from dreamr.cluster.triton import MODELS
from services.verifier.evidence import Token
from services.verifier.words import Words

BUNDLED = MODELS / "repository" / "target" / "1" / "weights"


def folder(path: Path, *words: str, merges: tuple[tuple[str, str], ...] = ()) -> Path:
    """A byte-level BPE tokenizer, as large models have it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = dict.fromkeys([*alphabet, *("".join(pair) for pair in merges), *words])
    vocab = {token: number for number, token in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(path / "tokenizer.json"))
    return path


def ids(path: Path, *tokens: str) -> frozenset[int]:
    vocab = Tokenizer.from_file(str(path / "tokenizer.json")).get_vocab()
    return frozenset(vocab[token] for token in tokens)


def test_all_spellings_that_are_tokens_count(tmp_path: Path) -> None:
    path = folder(tmp_path, "positive", "\u0120Positive", "POSITIVE", "\u0120negative", "positively")
    words = Words.find("positive", "negative", path)
    assert words.ids == (ids(path, "positive", "\u0120Positive", "POSITIVE"), ids(path, "\u0120negative"))


def test_a_token_is_known_by_its_number_whatever_its_text(tmp_path: Path) -> None:
    path = folder(tmp_path, "positive", "negative")
    words = Words.find("positive", "negative", path)
    (number,) = ids(path, "positive")
    assert words.speaks_for(Token(number, "\ufffd", -0.1))
    assert not words.speaks_for(Token(number + 1, "positive", -0.1))
    assert not words.speaks_against(Token(number, "negative", -0.1))


def test_a_word_of_several_tokens_is_known_by_its_first(tmp_path: Path) -> None:
    path = folder(tmp_path, "positive", merges=(("\u0120", "n"), ("n", "e"), ("ne", "g")))
    words = Words.find("positive", "negative", path)
    assert words.ids is not None
    # "Negative" begins with "N" here and " negative" with " n": a letter says too little.
    assert words.ids[1] == ids(path, "neg")


@pytest.mark.parametrize(("positive", "negative"), [("right", "righteous"), ("correct", "corrupt")])
def test_words_that_begin_alike_are_refused(tmp_path: Path, positive: str, negative: str) -> None:
    with pytest.raises(ValueError, match="with the same token"):
        Words.find(positive, negative, folder(tmp_path, merges=(("c", "o"), ("r", "i"))))


def test_a_tokenizer_without_the_word_is_refused() -> None:
    # The bundled one spells it letter by letter.
    with pytest.raises(ValueError, match="no token that begins the judge's word 'splendid'"):
        Words.find("splendid", "negative", BUNDLED)


def test_the_bundled_targets_words_are_there() -> None:
    found = Words.find("positive", "negative", BUNDLED).ids
    assert found is not None
    assert [len(tokens) for tokens in found] == [2, 2]


def test_without_a_tokenizer_texts_decide(tmp_path: Path) -> None:
    words = Words.find("positive", "negative", tmp_path)
    assert words.ids is None
    assert words.speaks_for(Token(0, "\u2581Positive", -0.1))
    assert words.speaks_against(Token(0, " NEGATIVE\n", -0.1))
    assert not words.speaks_for(Token(0, "positively", -0.1))


def test_a_broken_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        Words.find("positive", "negative", tmp_path)


def test_the_words_must_differ() -> None:
    with pytest.raises(ValueError, match="differ"):
        Words("Yes", " yes")
