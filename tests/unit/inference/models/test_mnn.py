"""MNN answers as ONNX Runtime does, beside other threads, and says what it cannot load."""

import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from inference.errors import ModelError
from inference.models import mnn
from inference.models.mnn import load_graph
from inference.models.onnx import preprocess
from inference.models.registry import get_spec
from tests.support.onnx_files import mean_sigmoid_graph
from tests.support.paths import DATA


@pytest.fixture(scope="module")
def graph(u2netp_file: Path) -> mnn.MnnGraph:
    return load_graph(u2netp_file, side=320, threads=1)


@pytest.mark.parametrize(
    "name",
    ["astronaut", *(pytest.param(each, marks=pytest.mark.slow) for each in ("chelsea", "coffee"))],
)
def test_answers_as_onnx_runtime_does(name: str, graph: mnn.MnnGraph, u2netp_file: Path) -> None:
    session = onnxruntime.InferenceSession(str(u2netp_file), providers=["CPUExecutionProvider"])
    with Image.open(DATA / f"{name}.jpg") as photo:
        tensor = preprocess(np.asarray(photo.convert("RGB")), get_spec("u2netp"))
    expected = session.run(None, {"input.1": tensor})[0]
    found = graph(tensor)
    assert (found.shape, found.dtype) == ((1, 1, 320, 320), np.float32)
    assert np.abs(found - expected).max() < 1 / 255


def test_other_threads_run_beside_the_graph(graph: mnn.MnnGraph) -> None:
    ended, turns = threading.Event(), 0

    def count() -> None:
        nonlocal turns
        while not ended.is_set():
            turns += 1
            time.sleep(0)

    thread = threading.Thread(target=count)
    thread.start()
    before = turns
    graph(np.zeros((1, 3, 320, 320), np.float32))
    meanwhile = turns - before
    ended.set()
    thread.join()
    assert meanwhile > 100, "leases are renewed by a thread"


def test_several_threads_get_each_their_own_answer(mean: Path) -> None:
    graph = load_graph(mean, side=32, threads=None)

    def error(level: float) -> float:
        answers = [graph(np.full((1, 3, 32, 32), level, np.float32)) for _ in range(50)]
        return float(np.abs(np.subtract(answers, 1 / (1 + np.exp(-level)))).max())

    with ThreadPoolExecutor(3) as pool:
        assert max(pool.map(error, (-2.0, 0.0, 2.0))) < 1e-5


@pytest.fixture
def mean(tmp_path: Path) -> Path:
    """A model of 32 x 32 pixels, in a folder that may not be written to."""
    path = tmp_path / "read-only" / "mean.onnx"
    path.parent.mkdir()
    path.write_bytes(mean_sigmoid_graph(32))
    path.parent.chmod(0o500)
    return path


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_conversion_leaves_nothing_behind_and_says_nothing(
    mean: Path, temporary: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    load_graph(mean, side=32, threads=1)
    assert list(mean.parent.iterdir()) == [mean]
    assert not list(temporary.iterdir())
    assert capfd.readouterr().out == "", "logs are lines of JSON"
    # The converter's command line reports what it converts.
    assert "MNN.tools" not in sys.modules
    assert "_tools" not in sys.modules


@pytest.mark.parametrize("kind", ["empty", "text", "cut short"])
def test_a_file_that_is_no_model_is_told(
    kind: str, u2netp_file: Path, tmp_path: Path, temporary: Path
) -> None:
    path = tmp_path / "wrong.onnx"
    whole = u2netp_file.read_bytes()
    path.write_bytes({"empty": b"", "text": b"no graph", "cut short": whole[:-300]}[kind])
    with pytest.raises(ModelError, match="cannot be loaded as a model: its conversion ended with"):
        load_graph(path, side=320, threads=1)
    assert not list(temporary.iterdir())


def test_a_model_of_another_size_is_told(mean: Path) -> None:
    with pytest.raises(ModelError, match=r"takes \[1, 3, 32, 32\] where \[1, 3, 320, 320\]"):
        load_graph(mean, side=320, threads=1)


def test_a_converter_that_dies_or_hangs_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(program))
    for body, words in (("kill -SEGV $$", "ended with -11"), ("exec sleep 60", "within 0 s")):
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
        with pytest.raises(ModelError, match=words):
            load_graph(tmp_path / "any.onnx", side=320, threads=1)
        monkeypatch.setattr(mnn, "_CONVERSION_SECONDS", 0.01)


def test_without_room_for_temporary_files_the_remedy_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(ModelError, match=r"cannot be converted: .* set TMPDIR to another"):
        load_graph(tmp_path / "any.onnx", side=320, threads=1)


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000", 8), ("200000 100000", 2), ("50000 100000", 1), (None, 8)]
)
def test_the_cores_of_a_container_count(
    text: str | None, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "cpu.max"
    if text is not None:
        limit.write_text(f"{text}\n")
    monkeypatch.setattr(mnn, "_CONTAINER_TIME", limit)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    assert mnn._core_count() == cores
