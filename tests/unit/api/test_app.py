"""The API stays small: no model library, no worker, and a fast start."""

import json
import subprocess
import sys

HEAVY = {"torch", "torchvision", "transformers", "kornia", "MNN", "onnxruntime", "numpy", "isal"}
SCRIPT = """
import json, sys, api.app
api = sorted(sys.modules)
import deploy.cli.main
print(json.dumps([api, sorted(sys.modules)]))
"""


def test_neither_the_api_nor_the_command_line_loads_a_model_library_or_a_worker() -> None:
    printed = subprocess.check_output([sys.executable, "-c", SCRIPT])
    api, with_command_line = map(set, json.loads(printed))
    assert "flask" in api
    assert not api & HEAVY
    assert not {name for name in api if f"{name}.".startswith("tasks.worker.")}
    assert not with_command_line & {"torch", "MNN", "onnxruntime", "kornia", "mcp"}
