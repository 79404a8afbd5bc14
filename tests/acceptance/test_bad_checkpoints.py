"""A worker that is given a bad checkpoint says which fault it has, and ends with status 1."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from deploy.local import service
from inference.models.birefnet.config import PRESETS
from inference.models.birefnet.golden import golden_state

_NORM = "bb.norm0.weight"
_SECONDS = 60


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return golden_state(PRESETS["birefnet-tiny"], "bad")


def _missing_key(path: Path, state: dict[str, Tensor]) -> None:
    save_file({key: value for key, value in state.items() if key != _NORM}, path)


def _wrong_shape(path: Path, state: dict[str, Tensor]) -> None:
    save_file(state | {_NORM: torch.zeros(17)}, path)


def _pickle(path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, path)


def _truncated(path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, path)
    path.write_bytes(path.read_bytes()[:-1000])


def _overflowing(path: Path, state: dict[str, Tensor]) -> None:
    save_file(state | {_NORM: torch.full((16,), torch.inf)}, path)


def _absent(path: Path, state: dict[str, Tensor]) -> None:
    """Write nothing."""


def _run_worker(redis_url: str, model: str, path: Path) -> tuple[int, list[dict[str, Any]]]:
    """The exit status of a model worker, and its log's lines."""
    command = [service.script("celery"), "-A", "tasks.app", "worker", "-n", "gpu0@bad"]
    environment = {
        "RMBG_REDIS_URL": redis_url,
        "RMBG_MODEL": model,
        "RMBG_MODEL_PATH": str(path),
        "RMBG_THREADS": "1",
    }
    done = subprocess.run(
        [*command, "-Q", f"gpu.bad.0,model.{model}"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr
    sys.stderr.write(done.stderr)  # pytest shows it beside a failure
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return done.returncode, lines


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_missing_key, f"lacks the key {_NORM}."),
        (_wrong_shape, f"{_NORM} has the shape [17], expected [16]"),
        (_overflowing, "overflowed in torch.float32"),
        (_pickle, "is a pickle (torch.save). Only safetensors is read"),
        (_truncated, "is truncated: "),
        (_absent, "is missing. Set RMBG_MODEL_PATH to its file"),
    ],
    ids=["missing-key", "wrong-shape", "overflow", "pickle", "truncated", "absent"],
)
def test_the_worker_says_what_is_wrong_and_ends(
    spoil: Callable[[Path, dict[str, Tensor]], None],
    reason: str,
    state: dict[str, Tensor],
    redis_url: str,
    tmp_path: Path,
) -> None:
    path = tmp_path / "weights.safetensors"
    spoil(path, state)
    status, lines = _run_worker(redis_url, "birefnet-tiny", path)
    assert status == 1
    faults = [line["reason"] for line in lines if line["event"] == "worker.model_unusable"]
    # Once: no child was started after one that failed.
    assert len(faults) == 1
    assert reason in faults[0]
    assert "worker.ready" not in [line["event"] for line in lines]


def test_a_model_that_is_not_for_commerce_says_so_at_start(redis_url: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    # As large as the real one, but all hole: enough for the parent, and nothing for its child.
    os.truncate(path, 884_878_856)
    status, lines = _run_worker(redis_url, "rmbg-2.0", tmp_path)
    assert status == 1
    (warning,) = (line for line in lines if line["event"] == "worker.non_commercial_model")
    assert "CC BY-NC 4.0: commercial use needs its authors' permission" in warning["reason"]
    assert "huggingface.co/briaai/RMBG-2.0" in warning["reason"]
