"""A graph on a GPU answers by ONNX Runtime; where CUDA does not start, nothing else is taken."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from inference.errors import ModelError
from inference.models.onnx_runtime import OnnxRuntimeGraph, load_graph
from tests.support.onnx_files import mean_sigmoid_graph


def test_a_session_answers_with_its_first_output() -> None:
    session = onnxruntime.InferenceSession(
        mean_sigmoid_graph(32), providers=["CPUExecutionProvider"]
    )
    tensor = np.random.default_rng(1).normal(size=(1, 3, 32, 32)).astype(np.float32)
    found = OnnxRuntimeGraph(session)(tensor)
    expected = 1 / (1 + np.exp(-tensor.mean(1, keepdims=True)))
    assert np.allclose(found.reshape(expected.shape), expected, atol=1e-6)


def test_what_is_no_model_and_a_gpu_that_does_not_start_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, session = tmp_path / "model.onnx", onnxruntime.InferenceSession

    def without_cuda(path: str, providers: list[object], **options: object) -> object:
        """A session as the build for CUDA makes one where CUDA does not start."""
        return session(path, providers=providers[1:], **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", without_cuda)
    for data, error in ((b"no", "cannot be loaded as"), (mean_sigmoid_graph(32), "cuda:7 was")):
        path.write_bytes(data)
        with pytest.raises(ModelError, match=error):
            load_graph(path, index="7", threads=1)
