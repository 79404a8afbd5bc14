"""The Triton program in Triton's interpreter, at sizes that it can bear."""

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

_SCRIPT = ROOT / "tests" / "support" / "interpreted_kernel.py"
#: Kernel, channels, outputs, batch, height, width, type: the largest difference.
_TOLERANCES = {
    "1 16 16 2 5 4 float32": 1e-4,
    "3 24 40 2 7 5 float32": 1e-4,
    "3 16 24 1 6 9 float16": 5e-3,
}


# Not the package: importing it here would fix for good that it does not interpret.
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_program_equals_torchs_way() -> None:
    command = [sys.executable, str(_SCRIPT), *_TOLERANCES]
    env = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=250)
    assert run.returncode == 0, run.stderr
    differences = dict(zip(_TOLERANCES, map(float, run.stdout.split()), strict=True))
    assert all(differences[case] <= most for case, most in _TOLERANCES.items()), differences
