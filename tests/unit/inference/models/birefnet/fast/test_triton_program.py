"""The Triton program in Triton's interpreter, at sizes that it can bear, and compiled for cards."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

#: Kernel, channels, outputs, batch, height, width, type: the largest difference.
_TOLERANCES = {
    "1 16 16 2 5 4 float32": 1e-4,
    "3 24 40 2 7 5 float32": 1e-4,
    "3 16 24 1 6 9 float16": 5e-3,
}


#: Compute capability and type: the most shared memory of a block, bytes (CUDA C++ Programming
#: Guide, "Technical Specifications per Compute Capability"), and what multiplies.
_CARDS = {
    "80 bf16": (163 << 10, "mma.sync"),
    "86 fp32": (99 << 10, "fma"),
    "90 fp16": (227 << 10, "wgmma"),
}

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


# Not the package: importing it here would fix for good whether it interprets.
def _run(script: str, *arguments: str, **settings: str) -> list[str]:
    command = [sys.executable, str(ROOT / "tests" / "support" / script), *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT), **settings}
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=250)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_the_program_equals_torchs_way() -> None:
    printed = _run("interpreted_kernel.py", *_TOLERANCES, TRITON_INTERPRET="1")
    differences = dict(zip(_TOLERANCES, map(float, printed), strict=True))
    assert all(differences[case] <= most for case, most in _TOLERANCES.items()), differences


@pytest.mark.slow
def test_the_program_fits_cards_of_each_kind(tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    printed = _run("compiled_kernel.py", str(tmp_path), *_CARDS, TRITON_CACHE_DIR=cache)
    for (case, (most, unit)), line in zip(_CARDS.items(), printed, strict=True):
        shared, spilled, multiplies = line.split()
        assert (int(spilled), multiplies) == (0, unit), case
        assert int(shared) <= most, case
