"""The commands of the README and the docs are run as they stand, against the real service."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from conftest import RunningService

from deploy.local import binaries

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
#: Run elsewhere: `make up` by test_up.py, `make test` and `make lint` are how this test is run.
_RUN_ELSEWHERE = re.compile(r"make (up|test|lint|install|bench|test-slow)\b")


def _commands(document: str) -> list[str]:
    blocks = _BLOCK.findall((ROOT / document).read_text())
    lines = [line.split("   #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not _RUN_ELSEWHERE.match(line)]


def test_the_readme_has_commands_to_run() -> None:
    assert len(_commands("README.md")) >= 4


@pytest.mark.parametrize("command", [*_commands("README.md"), *_commands("docs/models.md")])
def test_a_command_of_the_documents_works(
    service: RunningService, coffee: Path, tmp_path: Path, command: str
) -> None:
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    task_id = service.client.submit(coffee, {})
    service.client.wait(task_id)
    here = command.replace("http://127.0.0.1:8000", service.url)
    done = subprocess.run(
        ["bash", "-euc", here.replace(".venv/bin/rmbg", binaries.script("rmbg"))],
        cwd=tmp_path,
        env={**os.environ, "TASK_ID": task_id, "RMBG_URL": service.url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"code":4' not in done.stdout
    if "-o " in here:
        (target,) = re.findall(r"-o (\S+)", here)
        assert (tmp_path / target).exists()
