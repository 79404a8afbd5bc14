"""The Triton program in Triton's interpreter, at sizes that it can bear."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from inference.models.birefnet.fast import deformable
from tests.support.paths import ROOT

_SCRIPT = ROOT / "tests" / "support" / "interpreted_kernel.py"

# Not the package: importing it here would fix for good that it does not interpret.
_HAS_TRITON = importlib.util.find_spec("triton") is not None


@pytest.mark.skipif(not _HAS_TRITON, reason="Triton is not installed")
@pytest.mark.parametrize(
    ("sizes", "dtype", "tolerance"),
    [
        # kernel, channels, outputs, batch, height, width
        ("1 16 16 2 5 4", "float32", 1e-4),
        ("3 24 40 2 7 5", "float32", 1e-4),
        ("3 16 24 1 6 9", "float16", 5e-3),
    ],
)
def test_the_program_equals_torchs_way(sizes: str, dtype: str, tolerance: float) -> None:
    command = [sys.executable, str(_SCRIPT), *sizes.split(), dtype]
    env = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(Path.cwd())}
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=100)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) <= tolerance


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_card_it_says_so() -> None:
    assert deformable.triton_unusable_reason() == "there is no CUDA device"
