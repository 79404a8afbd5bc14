"""The data folder: its lock and its credentials."""

import os
import stat
from pathlib import Path

import pytest

from deploy.local.data_folder import load_credential, open_data_folder
from deploy.local.service import SetupError


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


def test_a_credential_is_made_once_and_is_private(tmp_path: Path) -> None:
    made = load_credential(tmp_path, "password")
    assert len(made) >= 32
    assert load_credential(tmp_path, "password") == made
    assert load_credential(tmp_path, "other") != made
    assert stat.S_IMODE((tmp_path / "password").stat().st_mode) == 0o600
