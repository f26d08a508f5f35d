"""Which version of the draft writes for which session, and the commands that change it."""

import json
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from dreamr.cli.main import app
from dreamr.errors import VersionFileError
from dreamr.v1 import common_pb2, completion_pb2, completion_pb2_grpc, draft_pb2, draft_pb2_grpc
from dreamr.versions import NAME, VersionFile
from services.common.completion import CompletionService
from services.common.interceptor import StatusInterceptor
from services.common.pair import ReasoningSettings
from services.common.prompts import Prompts
from services.common.triton import TritonModel
from services.draft.service import DraftService
from services.draft.shares import VersionShares
from tests.tiny_model import make_tiny_model
from tests.unit.fake_triton import Say, Seen, serving, serving_triton

SESSIONS = [f"session {number}" for number in range(2000)]


def test_a_share_of_the_sessions_has_the_candidate_and_keeps_it_while_shares_grow() -> None:
    counted, before = [], set[str]()
    for share in (0.0, 0.1, 0.5, 1.0):
        file = VersionFile(stable=1, candidate=2, share=share)
        now = {session for session in SESSIONS if file.of(session) == 2}
        assert before <= now
        before = now
        counted.append(len(now) / len(SESSIONS))
    # 2,000 draws: beyond 5 points is more than four times their spread.
    assert counted == pytest.approx([0, 0.1, 0.5, 1], abs=0.05)
    assert counted[0] == 0
    assert counted[-1] == 1
    assert {VersionFile(stable=3).of(session) for session in SESSIONS} == {3}
    assert VersionFile().of("any") is None


def test_a_file_that_changes_counts_from_the_next_call_on(tmp_path: Path) -> None:
    path = tmp_path / NAME
    shares = VersionShares(path)
    assert shares.of("s") is None
    VersionFile(stable=4).save(path)
    assert shares.of("s") == 4
    # Half a file changes nothing.
    path.write_text("{")
    assert shares.of("s") == 4
    VersionFile(stable=5).save(path)
    assert shares.of("s") == 5
    path.write_text('{"stable": 0}')
    with pytest.raises(VersionFileError, match="greater than or equal to 1"):
        VersionShares(path)


async def test_the_draft_service_asks_for_the_sessions_version_and_tells_it(tmp_path: Path) -> None:
    prompts = Prompts(make_tiny_model(tmp_path / "tiny"), ReasoningSettings())
    VersionFile(stable=1, candidate=2, share=1.0).save(tmp_path / NAME)

    def script(seen: Seen) -> list[Say]:
        del seen
        return [Say("one.</think>", "stop")]

    async with serving_triton(script) as (triton, address):
        model = TritonModel(address, "draft")
        shares = VersionShares(tmp_path / NAME)
        service = DraftService(model, prompts, ReasoningSettings(), 5, shares)
        alone = CompletionService(model, prompts, ReasoningSettings(), 5, shares.stable)
        context = common_pb2.Context(session_id="s", question="?")

        def add(server: grpc.aio.Server) -> None:
            draft_pb2_grpc.add_DraftServiceServicer_to_server(service, server)
            completion_pb2_grpc.add_CompletionServiceServicer_to_server(alone, server)

        async with (
            serving(add, interceptors=[StatusInterceptor()]) as where,
            grpc.aio.insecure_channel(where) as channel,
        ):
            stub: draft_pb2_grpc.DraftServiceAsyncStub = draft_pb2_grpc.DraftServiceStub(channel)
            found = []
            for asked in (None, 7):
                request = draft_pb2.DraftRequest(context=context, max_steps=1, model_version=asked)
                found += [response.model_version async for response in stub.Draft(request, timeout=5)]
            await stub.Answer(draft_pb2.DraftServiceAnswerRequest(context=context), timeout=5)
            # The model by itself is no place to try a version: nobody judges what it writes.
            completions: completion_pb2_grpc.CompletionServiceAsyncStub = (
                completion_pb2_grpc.CompletionServiceStub(channel)
            )
            part = completion_pb2.ChatMessage.Part(text="?")
            message = completion_pb2.ChatMessage(role=completion_pb2.CHAT_ROLE_USER, parts=[part])
            await completions.Complete(completion_pb2.CompleteRequest(messages=[message]), timeout=5).read()
        await model.close()
    assert found == [2, 7]
    assert [seen.version for seen in triton.seen] == ["2", "7", "2", "1"]


@pytest.mark.parametrize(("named", "code"), [(7, "NOT_FOUND"), (None, "UNAVAILABLE")])
async def test_a_version_that_is_not_loaded_is_not_there_or_at_another_worker(
    tmp_path: Path, named: int | None, code: str
) -> None:
    prompts = Prompts(make_tiny_model(tmp_path / "tiny"), ReasoningSettings())
    VersionFile(stable=3).save(tmp_path / NAME)

    def script(seen: Seen) -> list[Say]:
        return [Say(error=f"Request for unknown model: 'draft' version {seen.version} is not found")]

    async with serving_triton(script) as (_, address):
        model = TritonModel(address, "draft")
        service = DraftService(model, prompts, ReasoningSettings(), 5, VersionShares(tmp_path / NAME))

        def add(server: grpc.aio.Server) -> None:
            draft_pb2_grpc.add_DraftServiceServicer_to_server(service, server)

        async with (
            serving(add, interceptors=[StatusInterceptor()]) as where,
            grpc.aio.insecure_channel(where) as channel,
        ):
            stub: draft_pb2_grpc.DraftServiceAsyncStub = draft_pb2_grpc.DraftServiceStub(channel)
            context = common_pb2.Context(session_id="s", question="?")
            request = draft_pb2.DraftRequest(context=context, max_steps=1, model_version=named)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Draft(request, timeout=5).read()
        await model.close()
    assert caught.value.code().name == code


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "draft"
    for version in (1, 2, 3):
        (folder / str(version) / "weights").mkdir(parents=True)
        (folder / str(version) / "weights" / "training.json").write_text(
            json.dumps({"note": f"no. {version}"})
        )
    (folder / "config.pbtxt").write_text('# A comment.\nbackend: "transformers"\n')
    return folder


def draft(model: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["draft", *arguments, "--repository", str(model.parent)])
    return result.exit_code, result.output


def test_versions_are_tried_promoted_and_rolled_back(model: Path) -> None:
    def policy() -> str:
        return (model / "config.pbtxt").read_text().splitlines()[-1]

    assert draft(model, "promote", "2", "--share", "1")[0] == 0
    assert VersionFile.load(model / NAME) == VersionFile(stable=2, previous=3)
    assert draft(model, "promote", "3", "--share", "0.25")[0] == 0
    assert VersionFile.load(model / NAME) == VersionFile(stable=2, candidate=3, share=0.25, previous=3)
    assert policy() == "version_policy: { specific: { versions: [ 2, 3 ] } }"
    code, shown = draft(model, "list")
    assert code == 0
    assert [line.split()[:2] for line in shown.splitlines()[1:]] == [["1", "-"], ["2", "75%"], ["3", "25%"]]
    assert "no. 3" in shown
    assert draft(model, "rollback")[0] == 0
    assert VersionFile.load(model / NAME) == VersionFile(stable=2, previous=3)
    assert policy() == "version_policy: { specific: { versions: [ 2 ] } }"
    assert draft(model, "rollback")[0] == 0
    assert VersionFile.load(model / NAME) == VersionFile(stable=3, previous=2)
    assert (model / "config.pbtxt").read_text().count("version_policy") == 1
    assert (model / "config.pbtxt").read_text().startswith("# A comment.")


def test_what_is_not_there_is_refused(model: Path) -> None:
    code, output = draft(model, "promote", "9")
    assert (code, "1, 2, 3" in output) == (2, True)
    assert draft(model, "rollback")[0] == 2
    assert not (model / NAME).exists()
