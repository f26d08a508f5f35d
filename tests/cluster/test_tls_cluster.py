"""A whole cluster whose parts talk by mutual TLS."""

from pathlib import Path

import pytest

import dreamr
from dreamr.cluster.authority import Authority
from dreamr.cluster.cluster import Cluster
from dreamr.tls import ROLES, Tls
from training.task import held_out

pytestmark = pytest.mark.cluster


async def test_a_question_is_answered_and_strangers_are_not(tmp_path: Path) -> None:
    authority = Authority.at(tmp_path)
    for role in ROLES:
        authority.issue(tmp_path, role, days=1)
    (example,) = held_out(1, seed=11)
    async with Cluster(tls=tmp_path) as cluster:
        async with dreamr.AsyncClient(cluster.address, timeout=60, tls=Tls.of(tmp_path)) as client:
            answer = await client.ask(example.question, images=[example.image])
            assert answer.answer.isdecimal()
            # Draft and verifier have been reached too, and the target by both its callers.
            assert not answer.degraded
            assert answer.totals.steps_by_draft + answer.totals.rejected > 0
        async with dreamr.AsyncClient(cluster.address, timeout=10) as plaintext:
            with pytest.raises(dreamr.UnavailableError):
                await plaintext.ask(example.question, images=[example.image])
