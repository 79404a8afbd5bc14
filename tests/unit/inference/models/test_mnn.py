import os
import sys
import tempfile
import threading
import time
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
    begun, ended, turns = threading.Event(), threading.Event(), 0

    def count() -> None:
        nonlocal turns
        begun.wait()
        while not ended.is_set():
            turns += 1
            time.sleep(0)

    thread = threading.Thread(target=count)
    thread.start()
    begun.set()
    graph(np.zeros((1, 3, 320, 320), np.float32))
    ended.set()
    thread.join()
    assert turns > 100, "leases are renewed by a thread"


def test_several_threads_get_each_their_own_answer(tmp_path: Path) -> None:
    path = tmp_path / "mean.onnx"
    path.write_bytes(mean_sigmoid_graph(32))
    graph = load_graph(path, side=32, threads=None)
    wrong: list[float] = []

    def ask(level: float) -> None:
        for _ in range(50):
            answer = graph(np.full((1, 3, 32, 32), level, np.float32))
            if np.abs(answer - 1 / (1 + np.exp(-level))).max() > 1e-5:
                wrong.append(level)

    threads = [threading.Thread(target=ask, args=(level,)) for level in (-2.0, 0.0, 2.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_conversion_leaves_nothing_behind_and_says_nothing(
    tmp_path: Path, temporary: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "read-only" / "mean.onnx"
    path.parent.mkdir()
    path.write_bytes(mean_sigmoid_graph(32))
    path.parent.chmod(0o500)
    load_graph(path, side=32, threads=1)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
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


def test_a_model_of_another_size_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mean.onnx"
    path.write_bytes(mean_sigmoid_graph(32))
    with pytest.raises(ModelError, match=r"takes \[1, 3, 32, 32\] where \[1, 3, 320, 320\]"):
        load_graph(path, side=320, threads=1)


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
