"""A whole cluster whose parts talk by mutual TLS, and whose clients have API keys."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from tritonclient.grpc import service_pb2, service_pb2_grpc

import dreamr
from dreamr.cluster.authority import Authority
from dreamr.cluster.cluster import Cluster
from dreamr.keys import KeyFile
from dreamr.tls import ROLES, Tls
from dreamr.v1 import target_pb2, target_pb2_grpc, verifier_pb2, verifier_pb2_grpc
from training.task import held_out

pytestmark = pytest.mark.cluster


async def test_a_question_is_answered_and_strangers_are_not(tmp_path: Path) -> None:
    authority = Authority.at(tmp_path)
    for role in ROLES:
        authority.issue(tmp_path, role, days=1)
    path = tmp_path / "keys.json"
    with KeyFile.changed(path) as keys:
        key, other = keys.add("ci"), keys.add("ci")
    (example,) = held_out(1, seed=11)
    mine = Tls.of(tmp_path)
    async with Cluster(tls=tmp_path, settings={"DREAMR_GATEWAY_KEYS": str(path)}) as cluster:

        async def ask(tls: Tls | None, api_key: str | None) -> dreamr.Answer:
            async with dreamr.AsyncClient(cluster.address, timeout=60, tls=tls, api_key=api_key) as client:
                return await client.ask(example.question, images=[example.image])

        answer = await ask(mine, key)
        assert answer.answer.isdecimal()
        # Draft and verifier have been reached too, and the target by both its callers.
        assert not answer.degraded
        assert answer.totals.steps_by_draft + answer.totals.rejected > 0

        with pytest.raises(dreamr.UnavailableError):
            await ask(None, key)
        with pytest.raises(dreamr.AuthenticationError, match="is needed"):
            await ask(mine, None)
        with pytest.raises(dreamr.ForbiddenError, match="not by draft"):
            await ask(Tls.of(tmp_path, "draft"), key)
        with KeyFile.changed(path) as keys:
            keys.revoke(key.split("_", 2)[1])
        with pytest.raises(dreamr.AuthenticationError, match="revoked"):
            await ask(mine, key)
        assert (await ask(mine, other)).answer == answer.answer

        draft = Tls.of(tmp_path, "draft").open_channel(cluster.addresses["target"], "target", [])
        target = target_pb2_grpc.TargetServiceStub(draft)
        await _forbidden(target.Answer(target_pb2.AnswerRequest(), timeout=10))
        client = mine.open_channel(cluster.addresses["verifier"], "verifier", [])
        verifier = verifier_pb2_grpc.VerifierServiceStub(client)
        await _forbidden(verifier.Verify(verifier_pb2.VerifyRequest(), timeout=10))
        async with dreamr.AsyncClient(cluster.address, tls=mine, api_key=other) as client_of_redis:
            # Told from Redis, which is reached by TLS as well.
            assert (await client_of_redis.session((await ask(mine, other)).session_id)).finished
        host, port = cluster.addresses["redis"].rsplit(":", 1)
        async with Redis(host=host, port=int(port), socket_timeout=5) as plain_redis:
            with pytest.raises(RedisConnectionError):
                await plain_redis.ping()
        async with grpc.aio.insecure_channel(cluster.triton.grpc_address) as plain:
            with pytest.raises(grpc.aio.AioRpcError):
                await service_pb2_grpc.GRPCInferenceServiceStub(plain).ServerLive(
                    service_pb2.ServerLiveRequest(), timeout=5
                )
        await draft.close()
        await client.close()


async def _forbidden(call: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
