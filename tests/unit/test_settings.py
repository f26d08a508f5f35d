"""Settings come from the environment and flags, and unknown ones are refused."""

import re
from pathlib import Path

import pytest

from services.common.pair import Pair
from services.draft.settings import DraftSettings
from services.gateway.settings import GatewaySettings

BUNDLED = Path("models/bundled.toml")


def test_a_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAMR_DRAFT_TRITON", "a:1")
    monkeypatch.setenv("DREAMR_DRAFT_DRAIN_SECONDS", "3")
    settings = DraftSettings.load(["--triton", "b:2"])
    assert settings.triton == "b:2"
    assert settings.drain_seconds == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nonsense", "1"],
        ["--listen", "nowhere"],
        ["--max-sessions", "0"],
        ["--loop", "curio"],
        ["--draft", "dns:///workers"],
        ["--draft", "a:1,dns://workers:2"],
        ["--listen", "dns:///a:1"],
    ],
)
def test_a_wrong_flag_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        GatewaySettings.load(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("targets", ["a:1,b:2", "dns:///workers:7001", "dns:workers:7001,[::1]:2"])
def test_replicas_are_addresses_and_names(targets: str) -> None:
    assert GatewaySettings.load(["--draft", targets]).draft == targets


def test_a_secret_may_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dreamr_gateway_redis").write_text("redis://:secret@r:6379/0\n")
    (tmp_path / "something_else").write_text("of another service")
    monkeypatch.setenv("DREAMR_SECRETS", str(tmp_path))
    assert GatewaySettings.load([]).redis == "redis://:secret@r:6379/0"
    assert GatewaySettings.load(["--redis", "redis://b:2/0"]).redis == "redis://b:2/0"


def test_a_folder_of_secrets_must_be_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DREAMR_SECRETS", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit) as ended:
        GatewaySettings.load([])
    assert ended.value.code == 2
    assert "DREAMR_SECRETS" in capsys.readouterr().err


def test_an_unknown_variable_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DREAMR_GATEWAY_REDDIS", "x")
    with pytest.raises(SystemExit):
        GatewaySettings.load([])
    assert "DREAMR_GATEWAY_REDDIS" in capsys.readouterr().err


def test_the_bundled_pair_loads() -> None:
    pair = Pair.load(BUNDLED)
    assert pair.target.template.parent.name == "1"
    assert pair.reasoning.delimiter == "\n\n"


@pytest.mark.parametrize("change", ["alpha = 1.5", "surprise = 1", "positive ="])
def test_a_wrong_pair_names_the_file(tmp_path: Path, change: str) -> None:
    path = tmp_path / "pair.toml"
    text, count = re.subn(r"^alpha = .*$", change, BUNDLED.read_text(), count=1, flags=re.MULTILINE)
    assert count
    path.write_text(text)
    with pytest.raises(ValueError, match=r"pair\.toml"):
        Pair.load(path)
