"""What counts as flat."""

from bench.soak import grown


def sizes(mib: float, descriptors: float) -> dict[str, dict[str, float]]:
    return {"gateway": {"mib": mib, "descriptors": descriptors}}


def test_the_first_tenth_may_warm_up() -> None:
    assert grown([sizes(50, 10), sizes(100, 20), sizes(105, 21)]) == []


def test_growth_is_told() -> None:
    assert grown([sizes(50, 10), sizes(100, 20), sizes(120, 30)]) == [
        "gateway: 20 MiB more",
        "gateway: 10 descriptors more",
    ]
