"""A file that is written anew: whole, and for the same readers as before."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from redecode.optimizer.nightly.history import Change, Event, History, config_id
from redecode.optimizer.nightly.home import Home, write_whole


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("had", [0o600, 0o400, 0o640, 0o664])
def test_a_file_keeps_its_mode(tmp_path: Path, had: int) -> None:
    path = tmp_path / "current.toml"
    path.write_text("old")
    path.chmod(had)
    write_whole(path, "new")
    write_whole(path, "newer")
    assert (path.read_text(), mode(path)) == ("newer", had)
    assert [p.name for p in tmp_path.iterdir()] == ["current.toml"]


def test_a_new_file_is_as_the_process_makes_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "new", "x")
    finally:
        os.umask(before)
    assert mode(tmp_path / "new") == 0o640


def test_nobody_could_have_opened_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its first moment on the new file is open to its owner only."""
    path, seen = tmp_path / "secrets.toml", list[int]()
    path.write_text("old")
    path.chmod(0o600)
    real = os.open

    def opened(*args: Any) -> int:
        made = real(*args)
        seen.append(stat.S_IMODE(os.fstat(made).st_mode))
        return made

    monkeypatch.setattr(os, "open", opened)
    write_whole(path, "new")
    assert seen == [0o600]


def test_what_a_kill_left_read_only_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "current.toml"
    path.write_text("old")
    left = tmp_path / f".current.toml.{os.getpid()}.redecode-tmp"
    left.write_text("torn")
    left.chmod(0o400)
    write_whole(path, "new")
    assert path.read_text() == "new" and not left.exists()


def test_what_a_group_may_is_not_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, asked = tmp_path / "current.toml", list[tuple[int, int]]()
    path.write_text("old")
    path.chmod(0o640)
    was, real = path.stat(), os.fstat

    def refused(_: int, owner: int, group: int) -> None:
        asked.append((owner, group))
        raise PermissionError

    def of_another_group(file: int) -> os.stat_result:
        found = real(file)
        return os.stat_result((*found[:5], found.st_gid + 1, *found[6:]))

    monkeypatch.setattr(os, "fchown", refused)
    monkeypatch.setattr(os, "fstat", of_another_group)
    write_whole(path, "new")
    assert asked == [(-1, was.st_gid), (was.st_uid, -1)]
    assert (path.read_text(), mode(path)) == ("new", 0o600)


def test_a_rollback_leaves_a_linked_file_as_private_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    home, theirs = Home(tmp_path / "job"), tmp_path / "agent.toml"
    theirs.write_text("[context]\nwording = 'a'\n\n[secrets]\nkey = 'x'\n")
    theirs.chmod(0o600)
    home.current.symlink_to(theirs)
    history = History(home)
    history.settle(1)
    other = {"wording": "b"}
    history.put(Event(at_ns=2, change=Change.PROMOTED, config=config_id(other), before=history.config), other)
    history.roll_back(None, now_ns=3)
    assert home.current.is_symlink() and mode(theirs) == 0o600 and "key = 'x'" in theirs.read_text()
