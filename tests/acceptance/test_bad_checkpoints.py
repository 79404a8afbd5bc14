"""A worker that is given a bad checkpoint says which fault it has, and ends with status 1.

Each fault's words are tested beside the code that finds it; here, that both processes end on them.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deploy.local import service
from inference.models.birefnet.config import PRESETS
from inference.models.birefnet.golden import golden_state


def _overflowing(path: Path) -> None:
    state = golden_state(PRESETS["birefnet-tiny"], "bad")
    save_file(state | {"bb.norm0.weight": torch.full((16,), torch.inf)}, path)


def _pickle(path: Path) -> None:
    torch.save({"bb.norm0.weight": torch.zeros(16)}, path)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        pytest.param(_pickle, "is a pickle (torch.save). Only safetensors is read", id="parent"),
        pytest.param(_overflowing, "overflowed in torch.float32", id="child"),
    ],
)
def test_the_worker_says_what_is_wrong_and_ends(
    write: Callable[[Path], None], reason: str, redis_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    write(path)
    command = [service.script("celery"), "-A", "tasks.app", "worker", "-n", "gpu0@bad"]
    environment = {
        "RMBG_REDIS_URL": redis_url,
        "RMBG_MODEL": "birefnet-tiny",
        "RMBG_MODEL_PATH": str(path),
        "RMBG_THREADS": "1",
        "RMBG_LOG_LEVLE": "info",
    }
    done = subprocess.run(
        [*command, "-Q", "gpu.bad.0,model.birefnet-tiny"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    sys.stderr.write(done.stderr)  # pytest shows it beside a failure
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert "RMBG_LOG_LEVEL" in {line.get("meant") for line in lines}, "a misspelt setting is told"
    # Once: no child was started after one that failed.
    (fault,) = [line for line in lines if line["event"] == "worker.model_unusable"]
    assert reason in fault["reason"]
    assert "worker.ready" not in [line["event"] for line in lines]
