"""The live API against its own description, by `schemathesis` with every check."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.programs import run_program
from tests.support.service import RunningApi, api_here

_RUN = "from schemathesis.cli import schemathesis; schemathesis()"


@pytest.fixture
def environment(lone_api: RunningApi) -> Iterator[dict[str, str]]:
    """A key, which makes the API ask everybody for one, and a finished task of it."""
    examiner = api_here(lone_api.env, auth="on").tenant("examiner")
    task_id = examiner.submit()
    examiner.finish(task_id)
    yield {
        **os.environ,
        "RMBG_TEST_KEY": examiner.key,
        "RMBG_TEST_TASK": task_id,
        "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks",
        "PYTHONPATH": str(ROOT),
    }
    examiner.runtime.api_keys.revoke("examiner")


@pytest.mark.parametrize(
    ("phases", "examples"),
    [
        ("examples,fuzzing", 3),
        pytest.param("examples,coverage,fuzzing,stateful", 150, marks=pytest.mark.slow),
    ],
    ids=["short", "long"],
)
@pytest.mark.timeout(1500)
def test_nothing_that_is_asked_is_answered_against_the_description(
    lone_api: RunningApi, environment: dict[str, str], tmp_path: Path, phases: str, examples: int
) -> None:
    done = run_program(
        *(sys.executable, "-c", _RUN, "--no-color"),
        *("--config-file", ROOT / "tests" / "support" / "schemathesis.toml"),
        *("run", f"{lone_api.url}/openapi.json", "--checks", "all", "--warnings", "off"),
        *("--phases", phases, "--max-examples", examples),
        cwd=tmp_path,
        env=environment,
        seconds=1400,
    )
    # It prints its seed, and for each failure a command that repeats it.
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-4000:]
    assert " generated" in done.stdout
