"""What every verb makes of errors that a user can act on."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import typer

from redecode.cli.common import errors_in_one_line

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="there is no device that is always full")
def test_a_full_disk_is_one_line_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, errors_in_one_line():
        FULL.write_text("x")
    said = capsys.readouterr().err
    assert ended.value.exit_code == 2 and "No space left on device; make room and start again" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "said"), [(errno.EROFS, "choose another --store"), (errno.EIO, "look at the disk, and start again")]
)
def test_a_disk_that_cannot_be_written_is_one_line(capsys: pytest.CaptureFixture[str], number: int, said: str) -> None:
    with pytest.raises(typer.Exit) as ended, errors_in_one_line():
        raise OSError(number, os.strerror(number), "/store/LOCK")
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err == f"redecode: /store/LOCK cannot be written: {os.strerror(number)}; {said}\n"


def test_an_error_of_ours_is_not_hidden() -> None:
    with pytest.raises(OSError, match="something else"), errors_in_one_line():
        raise OSError(0, "something else")
