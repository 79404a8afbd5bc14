"""Graphs of ONNX files on NVIDIA GPUs, by ONNX Runtime."""

from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from inference.errors import ModelError

_CUDA: Final = "CUDAExecutionProvider"
_LOG_ERRORS_ONLY: Final = 3  # ONNX Runtime's severity "error"


class OnnxRuntimeGraph:
    """A session of ONNX Runtime."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name
        self._output = session.get_outputs()[0].name

    def __call__(self, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the graph's first output."""
        (output,) = self._session.run([self._output], {self._input: tensor})
        return np.asarray(output, np.float32)


def load_graph(path: Path, *, index: str, threads: int | None) -> OnnxRuntimeGraph:
    """Load a graph on the GPU of this number; what CUDA lacks runs on so many CPU threads.

    Raises:
        ModelError: the file is no model, or CUDA does not start.
    """
    providers = [(_CUDA, {"device_id": index}), "CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(
            str(path), sess_options=_session_options(threads), providers=providers
        )
    except Exception as error:  # ONNX Runtime's own errors share no public root
        raise ModelError(f"The file {path} cannot be loaded as a model: {error}") from error
    # ONNX Runtime continues without a provider that fails to start.
    if _CUDA not in session.get_providers():
        raise ModelError(
            f"The device cuda:{index} was asked for, but CUDA did not start: check the driver with "
            "nvidia-smi, or use device=cpu."
        )
    return OnnxRuntimeGraph(session)


def _session_options(threads: int | None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_ERRORS_ONLY
    options.intra_op_num_threads = threads or 0  # 0: one per core
    options.inter_op_num_threads = 1
    # Waiting threads sleep instead of keeping a core busy between two pictures.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
