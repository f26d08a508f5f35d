"""Redis' log of a session that changes hands: a true one is believed, a forged one is not."""

import hashlib

import pytest

from bench.chaos.ledger import Ledger
from services.gateway import redis_scripts

KEYS = tuple(f'"dreamr:{{s}}:{name}"' for name in ("session", "steps", "images"))
SESSION, STEPS, IMAGES = KEYS
ONE, OTHER = "127.0.0.1:1001", "127.0.0.1:1002"


def line(sender: str, *words: object) -> str:
    return f"+1700000000.123456 [0 {sender}] " + " ".join(
        str(word) if str(word).startswith('"') else f'"{word}"' for word in words
    )


def script(sender: str, text: str, keys: tuple[str, ...], *arguments: object) -> str:
    name = hashlib.sha1(text.encode()).hexdigest()
    return line(sender, "EVALSHA", name, len(keys), *keys, *arguments)


def create(sender: str, fence: int) -> list[str]:
    return [
        script(sender, redis_scripts.CREATE, (SESSION, IMAGES), "request", "", 400, 60),
        line("lua", "TIME"),
        line("lua", "HSET", SESSION, "request", "r", "status", "running", "fence", fence, "leased", 1),
    ]


def append(sender: str, fence: int, index: int, *, done: bool = True) -> list[str]:
    step = rf'"step\x00{index}"'
    asked = script(sender, redis_scripts.APPEND, KEYS, fence, index, step, 60)
    return [
        asked,
        line("lua", "HGET", SESSION, "fence"),
        *([line("lua", "RPUSH", STEPS, step)] if done else []),
    ]


def take_over(sender: str) -> list[str]:
    return [
        script(sender, redis_scripts.TAKE_OVER, (SESSION,), 400),
        line("lua", "HSET", SESSION, "leased", 2),
        line("lua", "HINCRBY", SESSION, "fence", 1),
    ]


TRUE = [
    line(ONE, "CLIENT", "SETNAME", "one"),
    line(OTHER, "CLIENT", "SETNAME", "other"),
    *create(ONE, 70),
    *append(ONE, 70, 0),
    *take_over(OTHER),
    *append(OTHER, 71, 1),
    *append(ONE, 70, 1, done=False),
    *append(OTHER, 71, 2),
]


def heard(lines: list[str]) -> Ledger:
    ledger = Ledger()
    for one in lines:
        ledger.hear(one)
    return ledger


def test_a_true_log_is_believed() -> None:
    ledger = heard(TRUE)
    assert ledger.wrong == []
    assert ledger.steps("s") == [b"step\x000", b"step\x001", b"step\x002"]
    assert (ledger.takeovers["s"], ledger.refused["append"]) == (1, 1)


def end(sender: str, fence: int) -> list[str]:
    return [
        script(sender, redis_scripts.END, KEYS, fence, "finished", r"\x0a\x0242", 60),
        line("lua", "HMGET", SESSION, "fence", "status"),
        line("lua", "HSET", SESSION, "status", "finished", "outcome", r"\x0a\x0242"),
    ]


def test_an_end_is_heard_once() -> None:
    ledger = heard(TRUE)
    assert ledger.end("s") is None
    for one in end(OTHER, 71):
        ledger.hear(one)
    assert ledger.end("s") == ("finished", b"\n\x0242")
    assert ledger.wrong == []
    for one in end(OTHER, 71):
        ledger.hear(one)
    assert ledger.wrong == ["s: ended twice"]


RENEWED = [
    script(ONE, redis_scripts.RENEW, KEYS, 70, 400, 60),
    line("lua", "HSET", SESSION, "leased", 3),
]


@pytest.mark.parametrize(
    ("forged", "wrong"),
    [
        (append(ONE, 70, 3), "under fence 70, and the newest is 71"),
        (append(ONE, 71, 3), "by one, and other holds it"),
        (append(OTHER, 71, 5), "as step 5"),
        (append(OTHER, 71, 2), "as step 2"),
        (create(ONE, 90), "begun twice"),
        (RENEWED, "RENEW by one beside other"),
        ([line(ONE, "RPUSH", STEPS, "x")], "past its scripts"),
        ([line(ONE, "EVAL", "return 1", 1, SESSION), line("lua", "RPUSH", STEPS, "x")], "by no append"),
        ([line(ONE, "EVAL", "return 1", 1, SESSION), line("lua", "DEL", SESSION)], "by no script that may"),
    ],
)
def test_a_forged_one_is_not(forged: list[str], wrong: str) -> None:
    ledger = heard([*TRUE, *forged])
    assert any(wrong in found for found in ledger.wrong), ledger.wrong


def test_what_was_refused_must_have_changed_nothing() -> None:
    at = TRUE.index(append(ONE, 70, 1)[0]) + 2
    ledger = heard([*TRUE[:at], append(ONE, 70, 1)[2], *TRUE[at:]])
    assert any("by one, and other holds it" in found for found in ledger.wrong)
