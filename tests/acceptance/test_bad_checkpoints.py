"""A worker that is given a bad checkpoint says which fault it has, and ends with status 1.

Each fault's words are tested beside the code that finds it; here, that both processes end on them.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deploy.local.service import script
from inference.models.birefnet.config import PRESETS
from inference.models.birefnet.golden import golden_state
from tests.support.programs import run_program


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
    queues = "gpu.bad.0,model.birefnet-tiny"
    command = (script("celery"), "-A", "tasks.app", "worker", "-n", "gpu0@bad", "-Q", queues)
    environment = {
        "RMBG_REDIS_URL": redis_url,
        "RMBG_MODEL": "birefnet-tiny",
        "RMBG_MODEL_PATH": str(path),
        "RMBG_THREADS": "1",
        "RMBG_LOG_LEVLE": "info",
    }
    done = run_program(*command, env={**os.environ, **environment}, seconds=180)
    sys.stderr.write(done.stderr)  # pytest shows it beside a failure
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert "RMBG_LOG_LEVEL" in {line.get("meant") for line in lines}, "a misspelt setting is told"
    # Once: no child was started after one that failed.
    (fault,) = [line for line in lines if line["event"] == "worker.model_unusable"]
    assert reason in fault["reason"]
    assert "worker.ready" not in [line["event"] for line in lines]
