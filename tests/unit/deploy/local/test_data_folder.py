"""The data folder: its lock and its credentials."""

import os
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from deploy.local.data_folder import load_credential, open_data_folder, write_private
from deploy.local.service import Service, SetupError


def test_the_lock_holds_while_any_process_has_it(tmp_path: Path) -> None:
    with open_data_folder(tmp_path) as folder:
        left_behind = os.dup(folder.lock)
        with pytest.raises(SetupError, match="in use"), open_data_folder(tmp_path, timeout=0):
            pass
    try:
        with pytest.raises(SetupError, match="left behind"), open_data_folder(tmp_path, timeout=0):
            pass
    finally:
        os.close(left_behind)
    with open_data_folder(tmp_path, timeout=0):
        pass


def test_a_file_and_its_name_are_on_the_disk_once_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def sync(handle: int) -> None:
        steps.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        steps.append((tmp_path / "file").read_text() if (tmp_path / "file").exists() else "")

    monkeypatch.setattr(os, "fsync", sync)
    write_private(tmp_path / "file", "text")
    assert steps == [str(tmp_path / ".file.draft"), "", str(tmp_path), "text"]


def test_what_cannot_be_deleted_at_the_end_is_left(tmp_path: Path) -> None:
    """As on a disk that has turned read-only."""
    (tmp_path / "run.json").mkdir()
    with open_data_folder(tmp_path) as folder:
        folder.delete("run.json")
    Service("toy", (), leftovers=(tmp_path / "run.json", tmp_path / "none")).remove_leftovers()


@pytest.mark.parametrize("left", [None, b"", bytes(48), b"\xff\xfe"])
def test_a_credential_that_a_power_failure_emptied_is_made_again_and_told(
    tmp_path: Path, left: bytes | None
) -> None:
    if left is not None:
        (tmp_path / "password").write_bytes(left)
    with capture_logs() as lines:
        made = load_credential(tmp_path, "password")
    assert len(made) >= 32
    assert load_credential(tmp_path, "password") == made
    assert load_credential(tmp_path, "other") != made
    assert [line["event"] for line in lines] == ["credential.replaced"] * (left is not None)
    assert stat.S_IMODE((tmp_path / "password").stat().st_mode) == 0o600
