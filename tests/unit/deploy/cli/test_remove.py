"""`rmbg remove` where it asks no service."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli.main import app


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
