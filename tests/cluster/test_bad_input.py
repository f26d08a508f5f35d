"""Bad input gets a clear error from the running cluster, and the cluster goes on."""

import io
from typing import Any

import pytest
from PIL import Image

import dreamr
from tests.unit.test_images import bomb
from training.task import held_out

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session")]

EXAMPLE = next(held_out(1, seed=12))
PNG = EXAMPLE.png()


def large(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((side, side), 50).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("question", "images", "options", "error", "words"),
    [
        ("", [PNG], {}, dreamr.InvalidRequestError, "question"),
        ("how many ?", [], {}, dreamr.InvalidRequestError, "images: at least 1"),
        ("how many ?", [PNG, PNG], {}, dreamr.InvalidRequestError, "images: at most 1"),
        ("how many ?", [b"no image"], {}, dreamr.InvalidRequestError, "images[0]"),
        ("how many ?", [PNG[:100]], {}, dreamr.InvalidRequestError, "images[0]: cannot be decoded"),
        ("how many ?", [bomb(30_000)], {}, dreamr.InvalidRequestError, "more than 16,000,000"),
        ("how many ?", [b"x" * 80_000_000], {}, dreamr.OverloadedError, "larger than max"),
        (
            "x" * 10_000,
            [PNG],
            {},
            dreamr.InvalidRequestError,
            "question: has 10,000 characters, more than 4,000",
        ),
        (
            "how many ?",
            [PNG],
            {"policy": "magic"},
            dreamr.InvalidRequestError,
            "options.policy: must be one of",
        ),
        (
            "how many ?",
            [PNG],
            {"window": 0},
            dreamr.InvalidRequestError,
            "options.window: must be within 1..16",
        ),
        (
            "how many ?",
            [PNG],
            {"window": 1_000},
            dreamr.InvalidRequestError,
            "must be within 1..16, not 1000",
        ),
        ("how many ?", [PNG], {"alpha": -0.5}, dreamr.InvalidRequestError, "options.alpha"),
        (
            "how many ?",
            [PNG],
            {"alpha": 1.5},
            dreamr.InvalidRequestError,
            "options.alpha: must be within 0..1, not 1.5",
        ),
        ("ab " * 1_000, [PNG], {}, dreamr.InvalidRequestError, "512"),
    ],
    ids=lambda value: None if isinstance(value, bytes | list | dict) else str(value)[:24],
)
async def test_bad_input_is_refused(
    client: dreamr.AsyncClient,
    question: str,
    images: list[bytes],
    options: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error) as refused:
        await client.ask(question, images=images, **options)
    assert words in str(refused.value)


async def test_the_cluster_goes_on(client: dreamr.AsyncClient) -> None:
    answer = await client.ask(EXAMPLE.question, images=[large(300)])
    assert answer.steps


async def test_a_deadline_is_kept(client: dreamr.AsyncClient) -> None:
    with pytest.raises(dreamr.DeadlineError):
        await client.ask(EXAMPLE.question, images=[PNG], timeout=0.01)
