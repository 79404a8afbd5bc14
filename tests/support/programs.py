"""Programs that a test runs to their end."""

import subprocess
from typing import Any


def run_program(
    *command: object,
    seconds: float = 120,
    **options: Any,  # noqa: ANN401 - of subprocess.run
) -> subprocess.CompletedProcess[str]:
    """Run a command, however it ends, and return its exit status and what it said."""
    return subprocess.run(
        [str(each) for each in command],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
        **options,
    )
