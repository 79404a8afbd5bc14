"""What one picture costs with each shape of network: `python -m benchmarks.models [NAME ...]`.

Processor seconds of one thread, and the memory of the process, with stand-in weights: their values
do not change the cost. Each shape has a process of its own; the 2048² ones take minutes.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.tables import table
from inference.models.registry import get_spec
from tests.support.onnx_files import IsNetGraph

#: One for each shape of network; other models of the registry have one of these.
SHAPES: Final = ("isnet-general-use", "birefnet-lite", "birefnet", "birefnet-hr")
_KIB: Final = 1024


def main(names: list[str]) -> None:
    """Measure these models, or one of each shape, one after the other."""
    rows = []
    for name in names or SHAPES:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, peak = pool.apply(measure, [name])
        side = get_spec(name).input_size
        rows.append([name, f"{side}²", f"{seconds:.1f}", f"{peak / 1e9:.1f}"])
    table(["model", "input", "processor seconds, one thread", "peak memory, GB"], rows)


def measure(name: str) -> tuple[float, int]:
    """Return the processor seconds of a run of a model, and its process's peak of bytes."""
    run = _isnet() if get_spec(name).engine == "onnx" else _birefnet(name)
    began = time.process_time()
    run()
    seconds = time.process_time() - began
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB


def _isnet() -> Callable[[], object]:
    from inference.models.onnx import load_onnx  # noqa: PLC0415 - one engine in a process

    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(IsNetGraph().file)
        file.flush()
        spec = get_spec("isnet-general-use")
        path = Path(file.name)
        model = load_onnx(spec, path, device="cpu", precision="auto", threads=1)
    model.warm_up()
    side = spec.input_size
    picture = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    return lambda: model.matte([picture])


def _birefnet(name: str) -> Callable[[], object]:
    import torch  # noqa: PLC0415 - one engine in a process

    from inference.models.birefnet.config import PRESETS  # noqa: PLC0415 - see above
    from inference.models.birefnet.fast.runners import (  # noqa: PLC0415 - see above
        ExecutionPath,
        make_runner,
    )
    from inference.models.birefnet.golden import (  # noqa: PLC0415 - see above
        golden_input,
        golden_network,
    )

    torch.set_num_threads(1)
    side = get_spec(name).input_size
    network = golden_network(PRESETS[name])
    device = torch.device("cpu")
    runner = make_runner(ExecutionPath.FAST, network, device, torch.float32, side=side, cache=None)
    pixels = torch.from_numpy(golden_input(side))

    def run() -> object:
        with torch.inference_mode():
            return runner.run(pixels)

    return run


if __name__ == "__main__":
    main(sys.argv[1:])
