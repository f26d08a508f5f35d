"""A few hundred bad requests to every service of real clusters, without TLS and with it."""

import pytest

from bench.fuzz.run import BAD, fuzz

pytestmark = pytest.mark.cluster


async def test_bad_requests_break_nothing() -> None:
    report = await fuzz(600, seed=1)
    assert not any(report[name] for name in BAD), report["examples"]
    for part in ("plaintext", "tls"):
        kinds = report[part]["statuses"]
        assert set(kinds) == {"draft", "gateway", "target", "verifier"}
        refused = sum(counts.get("INVALID_ARGUMENT", 0) for of in kinds.values() for counts in of.values())
        assert refused > 60
