"""`dreamr keys`, and the file that it keeps."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dreamr.cli.main import app
from dreamr.errors import KeyFileError
from dreamr.keys import KeyFile, Limits, digest_of


def keys(path: Path, command: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["keys", command, *arguments, "--file", str(path)])


def added(path: Path, *arguments: str) -> str:
    ended = keys(path, "add", *arguments)
    assert ended.exit_code == 0, ended.output
    return ended.stdout.strip()


def test_a_key_is_printed_once_and_kept_as_a_hash(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    limits = ("--max-sessions", "4", "--tokens-per-minute", "9000", "--max-left-bytes", "0")
    secret = added(path, "ci", *limits, "--days", "30")
    text = path.read_text()
    assert secret.startswith("dreamr_")
    assert secret not in text
    assert secret.split("_", 2)[2] not in text
    assert path.stat().st_mode & 0o777 == 0o600
    found = KeyFile.load(path)
    assert found.keys[0].digest == digest_of(secret)
    assert found.callers == {"ci": Limits(max_sessions=4, tokens_per_minute=9000, max_left_bytes=0)}
    expires = found.keys[0].expires
    assert expires is not None
    assert abs(expires - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=1)
    listed = keys(path, "list").stdout
    assert "ci" in listed
    assert "valid" in listed
    assert listed.split()[-3:] == ["4", "9000", "0"]
    assert secret.split("_", 2)[2] not in listed


def test_a_second_key_keeps_the_limits_that_it_does_not_set(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first = added(path, "ci", "--max-sessions", "4")
    second = added(path, "ci", "--tokens-per-minute", "100")
    assert first != second
    assert KeyFile.load(path).callers == {"ci": Limits(max_sessions=4, tokens_per_minute=100)}


def test_revoking_by_id_and_by_caller(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    ids = [added(path, name).split("_", 2)[1] for name in ("ci", "ci", "app")]
    assert keys(path, "revoke", ids[0]).exit_code == 0
    now = datetime.now(UTC)
    assert [key.state(now) for key in KeyFile.load(path).keys] == ["revoked", "valid", "valid"]
    assert keys(path, "revoke", "ci").exit_code == 0
    assert [key.state(now) for key in KeyFile.load(path).keys] == ["revoked", "revoked", "valid"]
    again = keys(path, "revoke", "ci")
    assert again.exit_code == 2
    assert "ci" in again.output


@pytest.mark.parametrize("name", ["", "a b", "-x", "a" * 65, "ä", "a/b"])
def test_a_bad_name_is_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / "keys.json"
    ended = keys(path, "add", "--", name)
    assert ended.exit_code == 2
    assert not path.exists()


def test_commands_at_once_do_not_undo_each_other(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"

    def add(number: int) -> str:
        with KeyFile.changed(path) as found:
            return found.add(f"caller{number}")

    with ThreadPoolExecutor(8) as pool:
        secrets = list(pool.map(add, range(40)))
    assert {key.digest for key in KeyFile.load(path).keys} == {digest_of(secret) for secret in secrets}


@pytest.mark.parametrize("content", ["", "[]", "{", '{"keys": [{"id": "x"}]}', '{"more": 1}'])
def test_another_file_is_no_file_of_keys(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(KeyFileError, match=r"keys\.json"):
        KeyFile.load(path)


def test_what_the_file_holds_stands_in_no_error(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [{"id": "dreamr_secret"}]}))
    with pytest.raises(KeyFileError) as caught:
        KeyFile.load(path)
    assert "dreamr_secret" not in str(caught.value)
