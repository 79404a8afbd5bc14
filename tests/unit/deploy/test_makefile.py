"""The environment that `make` installs into, without what pip installs."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

#: A Python that says that it is of this version, and whose environments' pip ends with a status.
_PYTHON = """#!/bin/sh
case $1 in
-c) exec {python} -c "import sys; sys.version_info = {version}; $2" ;;
*)
    {python} "$@" --without-pip
    printf '#!/bin/sh\\nexit {ends}' >.venv/bin/pip
    chmod +x .venv/bin/pip ;;
esac
"""
#: Installs the project as pip does: by a file with its whole path.
_PIP = """[ "$PIP_USER" = 0 ] &&
pwd >"$(echo .venv/lib/python3*/site-packages)/_editable_impl_rmbg_queue.pth"
"""


def _make(
    folder: Path, *options: str, version: str = "sys.version_info", ends: int = 0
) -> tuple[int, str]:
    """Make the environment, and return the exit status and what was printed."""
    python = folder.parent / "python"
    python.write_text(
        _PYTHON.format(python=shlex.quote(sys.executable), version=version, ends=ends)
    )
    python.chmod(0o755)
    command = ["make", f"PYTHON={python}", "PIP=sh pip.sh", ".venv/.service", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "it's a Büro"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    (folder / "pip.sh").write_text(_PIP)
    (folder / "found.py").touch()
    return folder


def test_it_serves_any_locale_and_its_own_folder_alone(folder: Path) -> None:
    status, said = _make(folder)
    assert status == 0, said
    assert "up to date" in _make(folder)[1]
    program = [str(folder / ".venv/bin/python"), "-c", "import found"]
    subprocess.run(program, env={"LC_ALL": "POSIX"}, check=True)
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy, symlinks=True)
    assert "-m venv --clear .venv" in _make(copy, "-n")[1]


def test_a_python_that_is_too_old_is_named_and_leaves_no_environment(folder: Path) -> None:
    status, said = _make(folder, version="(3, 10, 1)")
    assert status != 0
    assert "is 3.10. Name another: make PYTHON=python3.12" in said
    assert not (folder / ".venv").exists()


def test_a_folder_whose_programs_do_not_run_is_told(folder: Path) -> None:
    status, said = _make(folder, ends=127)
    assert status != 0
    assert "Programs in .venv do not run" in said
    assert not (folder / ".venv").exists()


def test_what_another_python_left_half_made_is_made_anew(folder: Path) -> None:
    assert _make(folder)[0] == 0
    (folder / ".venv/.service").unlink()
    assert "--clear" not in _make(folder, "-n")[1]
    assert "-m venv --clear .venv" in _make(folder, "-n", version="(3, 99)")[1]
