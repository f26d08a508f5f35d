"""How a Triton is started that crashes; here a script stands in for it."""

from pathlib import Path

import pytest

from dreamr.cluster.triton import TritonServer, TritonStartError


def crashing(folder: Path, times: int) -> TritonServer:
    """A server that crashes so many times before it runs, and notes each start in `starts`."""
    program = folder / "tritonserver"
    program.write_text(
        "#!/bin/sh\n"
        f"echo started >> {folder}/starts\n"
        f'[ "$(wc -l < {folder}/starts)" -gt {times} ] || kill -ABRT $$\n'
        "echo Started GRPCInferenceService; echo Started HTTPService; echo Started Metrics Service\n"
        "exec sleep 60\n"
    )
    program.chmod(0o755)
    return TritonServer(folder, binary=program)


def starts(folder: Path) -> int:
    return len((folder / "starts").read_text().splitlines())


async def test_one_that_crashes_is_started_once_more(tmp_path: Path) -> None:
    async with crashing(tmp_path, 1) as server:
        assert server.pid is not None
    assert starts(tmp_path) == 2


async def test_one_that_crashes_again_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(TritonStartError, match="status -6"):
        await crashing(tmp_path, 9).start()
    assert starts(tmp_path) == 2
