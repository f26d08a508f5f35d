"""Files are replaced whole, and stay whose they were."""

import os
import stat
from pathlib import Path

import pytest

from dreamr.files import replace


def test_a_new_file_has_the_mode_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    replace(path, b"x", 0o600)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"x", 0o600)


def test_owner_and_mode_of_a_file_that_is_there_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(b"old")
    path.chmod(0o640)
    given = []
    monkeypatch.setattr(os, "fchown", lambda _, *owner: given.append(owner))
    replace(path, b"new", 0o600)
    found = path.stat()
    assert (path.read_bytes(), stat.S_IMODE(found.st_mode)) == (b"new", 0o640)
    assert given == [(found.st_uid, found.st_gid)]


def test_who_may_not_give_a_file_away_writes_it_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: int) -> None:
        raise PermissionError

    path = tmp_path / "keys.json"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fchown", refuses)
    replace(path, b"new")
    assert path.read_bytes() == b"new"
