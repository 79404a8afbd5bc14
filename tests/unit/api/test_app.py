"""The API stays small: no model library, no worker, and a fast start."""

import json
import subprocess
import sys

HEAVY = ("torch", "torchvision", "transformers", "kornia", "onnxruntime", "numpy", "isal")


def _loaded_by(module: str) -> set[str]:
    script = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    return set(json.loads(done.stdout))


def test_the_api_loads_no_model_library_and_no_worker() -> None:
    loaded = _loaded_by("api.app")
    assert "flask" in loaded
    assert not loaded & set(HEAVY)
    assert not {name for name in loaded if f"{name}.".startswith("tasks.worker.")}


def test_the_command_line_starts_without_a_model_library() -> None:
    assert not _loaded_by("deploy.cli.main") & {"torch", "onnxruntime", "kornia"}
