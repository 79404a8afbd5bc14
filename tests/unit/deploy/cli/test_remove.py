"""`rmbg remove` where it asks no service."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli.main import app

#: A path that cannot be looked at, as below a folder that its user may not search.
LONG = Path("x" * 300)


def test_one_path_that_cannot_be_looked_at_is_a_failed_picture(tmp_path: Path) -> None:
    call = ["remove", str(LONG.with_suffix(".jpg")), "-o", str(tmp_path)]
    done = CliRunner().invoke(app, call, env={"COLUMNS": "200"})
    assert "cannot be read: File name too long" in done.output
    assert "0 of 1 cut out" in done.output


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (["--watch"], "--watch waits for pictures in folders"),
        (["-o", str(LONG.with_suffix(".png"))], "-o names a folder, not a file"),
    ],
)
def test_a_path_that_cannot_be_looked_at_is_no_folder(call: list[str], words: str) -> None:
    done = CliRunner().invoke(app, ["remove", str(LONG), *call])
    assert done.exit_code == 2
    assert words in done.output


def test_named_files_that_are_missing_or_cannot_be_read_are_failed_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, missing = tmp_path / "locked.jpg", tmp_path / "missing.jpg"
    locked.touch()
    # Whoever runs the tests may read everything.
    monkeypatch.setattr(os, "access", lambda path, _mode, **_: Path(path) != locked)
    call = ["remove", str(locked), str(missing), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, call, env={"COLUMNS": "200"})
    assert done.exit_code == 1
    assert f"{locked}: cannot be read: Permission denied" in done.output
    assert f"{missing}: cannot be read: No such file or directory" in done.output
    assert "2/2" in done.output
    assert "0 of 2 cut out" in done.output
