"""Stop strings over text that comes in pieces."""

from hypothesis import given
from hypothesis import strategies as st

from models.backends.transformers.stops import Detokenizer, StopText


def run(pieces: list[str], stops: list[str], include: bool) -> tuple[str, str | None, list[int]]:
    text = StopText(stops, include)
    certain = []
    for piece in pieces:
        stopped = text.push(piece)
        certain.append(text.certain)
        if stopped:
            break
    return text.text, text.stopped_by, certain


def test_the_first_stop_string_ends_the_text() -> None:
    assert run(["a b", "c\n", "\nd"], ["\n\n", "</think>"], False)[:2] == ("a bc", "\n\n")
    assert run(["a b", "c\n", "\nd"], ["\n\n"], True)[:2] == ("a bc\n\n", "\n\n")
    assert run(["x</th", "ink>\n\ny"], ["\n\n", "</think>"], True)[:2] == ("x</think>", "</think>")


def test_of_two_stops_at_one_place_the_longer_wins() -> None:
    assert run(["ab<end>"], ["<", "<end>"], True)[:2] == ("ab<end>", "<end>")


def test_the_beginning_of_a_stop_string_is_held_back() -> None:
    assert run(["ab\n"], ["\n\n"], False)[2] == [2]
    assert run(["ab\n", "c"], ["\n\n"], False)[2] == [2, 4]
    assert run(["ab\n"], ["\n\n"], True)[2] == [3]


def test_too_early_a_stop_is_text() -> None:
    text = StopText(["."], False)
    assert not text.push("a.", active=False)
    assert not text.push("b")
    assert text.push("c.")
    assert text.text == "a.bc"


def test_a_long_stop_does_not_reach_back_for_a_short_one() -> None:
    text = StopText([".", "a long stop"], False)
    assert not text.push("a.", active=False)
    assert not text.push("b")
    assert text.text == "a.b"


@given(
    st.text("ab\n", max_size=30),
    st.lists(st.integers(1, 4), max_size=30),
    st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
)
def test_pieces_do_not_matter_and_what_was_shown_stays(
    whole: str, sizes: list[int], stops: list[str]
) -> None:
    pieces, at = [], 0
    for size in [*sizes, len(whole)]:
        pieces.append(whole[at : at + size])
        at += size
    text, _, certain = run(pieces, stops, False)
    ends = [whole.index(stop) + len(stop) for stop in stops if stop in whole]
    # Whoever reads along has seen a beginning of the text, never more.
    assert all(text.startswith(whole[:seen]) for seen in certain)
    if not ends:
        assert text == whole
    else:
        assert not any(stop in text for stop in stops)
        assert whole.startswith(text)
        assert len(text) >= min(whole.index(stop) for stop in stops if stop in whole)


def test_characters_of_several_tokens_appear_when_they_are_whole() -> None:
    data = "héllo ✓ wörld".encode()
    detokenizer = Detokenizer(lambda ids: bytes(ids).decode(errors="replace"), list(b"prompt text"))
    parts = [detokenizer.push(byte) for byte in data]
    assert "".join(parts) == data.decode()
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(parts)


def test_a_space_that_a_tokenizer_drops_at_the_start_is_kept_within() -> None:
    words = {0: "▁a", 1: "▁b", 2: "c"}

    def decode(ids: object) -> str:
        assert isinstance(ids, list)
        return "".join(words[token] for token in ids).replace("▁", " ").removeprefix(" ")

    detokenizer = Detokenizer(decode, [0])
    assert [detokenizer.push(token) for token in [1, 2] * 20] == [" b", "c"] * 20
