"""Graphs of ONNX files on CPUs, by MNN (docs/adr/0028).

MNN has a format of its own. The file is converted at each start, which takes 0.6 s of U²-Net and
3 s of IS-Net: what is kept beside the weights would have to be checked, and replaced when either
changes. A process of its own converts, as the converter is C++ that reads a file of any content,
takes up to seven times its size in memory, and may end its process.

Nothing here may import `MNN.tools`: it installs a package by pip and sends what was converted to
MNN's authors. The converter below it does neither.
"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inference.errors import ModelError

#: How long a conversion may take: twenty times that of IS-Net on one busy core.
_CONVERSION_SECONDS: Final = 180.0
#: The converted model, and what is told of it, in a folder for these.
_MODEL, _FACTS = "model.mnn", "facts.json"
_STDOUT: Final = 1
#: What a container may use: microseconds, or "max", in a period of so many (cgroup v2).
_CONTAINER_TIME: Final = Path("/sys/fs/cgroup/cpu.max")
#: Of the converter's last words, these many characters are told.
_REASON_LENGTH: Final = 200


class MnnGraph:
    """A session of MNN, one run at a time; other threads of Python run meanwhile."""

    # MNN's documentation prefers its modules to sessions. Their call holds Python's lock, for 2 s
    # of IS-Net and longer on small machines: leases would not be renewed.

    def __init__(self, file: Path, *, source: str, target: str, threads: int) -> None:
        import MNN  # noqa: PLC0415 - it prints

        self._tensor: Any = MNN.Tensor
        self._float = MNN.Halide_Type_Float
        self._order = MNN.Tensor_DimensionType_Caffe
        self._interpreter = MNN.Interpreter(str(file))
        config = {"backend": "CPU", "precision": "high", "numThread": threads}
        self._session = self._interpreter.createSession(config)
        self._input = self._interpreter.getSessionInput(self._session, source)
        self._output = self._interpreter.getSessionOutput(self._session, target)
        self._lock = Lock()

    def __call__(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the graph's first output.

        Raises:
            RuntimeError: MNN reports an error.
        """
        result = np.empty(self._output.getShape(), np.float32)
        with self._lock:
            self._input.copyFrom(self._wrap(tensor))
            code = self._interpreter.runSession(self._session)
            if code != 0:
                raise RuntimeError(f"MNN reports the error {code}")
            output = self._wrap(result)
            self._output.copyToHostTensor(output)
        return np.array(output.getNumpyData(), np.float32)

    def _wrap(self, array: NDArray[np.float32]) -> Any:  # noqa: ANN401 - MNN publishes no types
        return self._tensor(array.shape, self._float, np.ascontiguousarray(array), self._order)


def load_graph(path: Path, *, side: int, threads: int | None) -> MnnGraph:
    """Convert an ONNX file and load it, on so many threads; None takes one for each core.

    Raises:
        ModelError: the file is no model of pictures of this side, or cannot be converted.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="rmbg-model-") as name:
            folder = Path(name)
            facts = _convert(path, folder)
            if facts["shape"] != [1, 3, side, side]:
                raise ModelError(
                    f"The file {path} cannot be loaded as a model: it takes {facts['shape']} "
                    f"where [1, 3, {side}, {side}] is expected."
                )
            with _native_output_ignored():
                return MnnGraph(
                    folder / _MODEL,
                    source=facts["input"],
                    target=facts["output"],
                    threads=threads or _core_count(),
                )
    except OSError as error:
        raise ModelError(
            f"The model {path} cannot be converted: {error}. Make room in the folder for temporary "
            f"files ({tempfile.gettempdir()}), or set TMPDIR to another."
        ) from error


def _core_count() -> int:
    """Return how many cores this process may use: of the machine, and in the time of its container.

    Threads beyond that would wait for each other while the container is paused.
    """
    known = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    try:
        quota, period = _CONTAINER_TIME.read_text(encoding="ascii").split()
        return min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no container of Linux, or "max"
        return cores


def _convert(path: Path, folder: Path) -> Mapping[str, Any]:
    """Convert an ONNX file in a process of its own, and return what is known of the graph."""
    command = [sys.executable, "-m", __name__, str(path), str(folder)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_CONVERSION_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"The file {path} cannot be loaded as a model: it was not converted within "
            f"{_CONVERSION_SECONDS:.0f} s."
        ) from error
    facts = folder / _FACTS
    if done.returncode != 0 or not facts.exists():
        words = done.stdout.decode(errors="replace").split("\n")
        reason = next((line for line in reversed(words) if line.strip()), "")
        raise ModelError(
            f"The file {path} cannot be loaded as a model: its conversion ended with "
            f"{done.returncode}. {reason.strip()[:_REASON_LENGTH]}"
        )
    read: Mapping[str, Any] = json.loads(facts.read_text(encoding="utf-8"))
    return read


def _write_converted(path: str, folder: Path) -> None:
    """Convert an ONNX file, and write down its first input, its first output and its size.

    Sessions know their tensors by name only; the order is known here.
    """
    import _tools  # noqa: PLC0415 - only in this process
    import MNN  # noqa: PLC0415 - it prints

    model = folder / _MODEL
    _tools.mnnconvert(["", "-f", "ONNX", "--modelFile", path, "--MNNModel", str(model)])
    if not model.exists():
        sys.exit(1)  # it has said why
    runtime = MNN.nn.create_runtime_manager(({"backend": "CPU"},))
    graph = MNN.nn.load_module_from_file(str(model), [], [], runtime_manager=runtime).get_info()
    facts = {
        "input": graph["inputNames"][0],
        "shape": list(graph["inputs"][0].shape),
        "output": graph["outputNames"][0],
    }
    (folder / _FACTS).write_text(json.dumps(facts), encoding="utf-8")


@contextmanager
def _native_output_ignored() -> Iterator[None]:
    """Drop what C code prints: MNN tells the processor's features, and logs are lines of JSON."""
    flush = ctypes.CDLL(None).fflush
    flush(None)
    kept = os.dup(_STDOUT)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), _STDOUT)
        yield
        flush(None)
    finally:
        os.dup2(kept, _STDOUT)
        os.close(kept)


if __name__ == "__main__":
    _write_converted(sys.argv[1], Path(sys.argv[2]))
