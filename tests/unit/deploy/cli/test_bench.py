"""`rmbg models logits` and `rmbg bench`, as a person runs them."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from numpy.typing import NDArray
from safetensors.torch import save_file
from typer.testing import CliRunner

from deploy.bench import gpu_share
from deploy.bench.gpu_share import GpuLoad, Share
from deploy.cli import bench
from deploy.cli.models import logits
from deploy.local.service import StartError
from inference.errors import GpuOutOfMemoryError
from inference.models.birefnet import bench as birefnet_bench
from inference.models.birefnet.bench import Candidate, Timings
from inference.models.birefnet.config import PRESETS
from inference.models.birefnet.golden import golden_input, golden_state

_TINY = ("--model", "birefnet-tiny")
_BENCH = ("bench", "model", *_TINY, "--device", "cpu", "--size", "64", "--runs", "1")


@pytest.fixture(autouse=True)
def _quick_roofline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting a network's operations takes seconds; tests of the network's benchmark do it."""
    monkeypatch.setattr(birefnet_bench, "count_flops", lambda *_: 10**9)
    monkeypatch.setattr(birefnet_bench, "_GEMM_SIDE", {"cpu": 64})


def _invoke(*arguments: str, status: int = 0) -> str:
    app = typer.Typer()
    app.add_typer(bench.app, name="bench")
    app.command()(logits)
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result.output


def test_golden_logits_equal_those_of_the_same_weights_in_a_file(tmp_path: Path) -> None:
    def run(*arguments: str) -> NDArray[np.float32]:
        _invoke("logits", *arguments, "--out", str(tmp_path / "out.npy"), *_TINY)
        return np.load(tmp_path / "out.npy")

    made_up = run("--keys-from", "golden", "--seed", "s7", "--size", "96")
    weights, picture = tmp_path / "w.safetensors", tmp_path / "x.npy"
    save_file(golden_state(PRESETS["birefnet-tiny"], "s7"), weights)
    np.save(picture, golden_input(96, "s7"))
    files = ("--weights", str(weights), "--input", str(picture), "--patch-order")
    assert made_up.shape == (96, 96)
    np.testing.assert_allclose(run(*files, "rmbg-2.0"), made_up, atol=1e-4)
    assert np.abs(run(*files, "birefnet") - made_up).max() > 0.05


def test_logits_name_what_is_wrong(tmp_path: Path) -> None:
    def refusal(*arguments: str, status: int = 1) -> str:
        return _invoke("logits", *arguments, "--out", str(tmp_path / "out"), status=status)

    assert "multiple of 32" in refusal("--keys-from", "golden", "--size", "100")
    assert "Give either" in refusal(status=2)
    picture = tmp_path / "x.npy"
    given = ("--weights", "absent", "--input", str(picture))
    picture.write_bytes(b"no array")
    assert "cannot be read as a .npy array" in refusal(*given)
    np.save(picture, np.zeros((2, 64, 64), np.float32))
    assert "give (batch, 3, " in refusal(*given)
    np.save(picture, golden_input(64))
    assert "There are no weights at" in refusal(*given)


def test_bench_model_prints_its_table() -> None:
    table = _invoke(*_BENCH, "--batch", "1", "--batch", "2", "--check", "--loop")
    (head,) = (line for line in table.splitlines() if line.startswith("path"))
    names = ["batch", "ms", "loop", "ms", "images/s", "gain", "MiB", "roof", "start", "error"]
    assert head.split() == ["path", *names]
    for path in ("reference", "fast"):
        rows = [line.split() for line in table.splitlines() if line.startswith(path)]
        assert [(row[1], row[-1]) for row in rows] == [("1", "0.000"), ("2", "0.000")]
    plain = _invoke(*_BENCH, "--path", "fast", "--profile")
    assert "loop" not in plain
    assert "error" not in plain
    kernels = re.findall(r"(aten::\w+) +[\d.]+ +[\d.]+% +\d", plain.partition("by kernel")[2])
    assert len(kernels) > 5


def test_bench_model_shows_what_it_measured_before_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = Candidate.measure

    def measure(self: Candidate, batch: int, rounds: Timings) -> None:
        if batch > 1:
            raise GpuOutOfMemoryError("no more memory")
        measured(self, batch, rounds)

    monkeypatch.setattr(Candidate, "measure", measure)
    output = _invoke(*_BENCH, "--batch", "1", "--batch", "2", status=1)
    assert [line.split()[1] for line in output.splitlines() if line.startswith("fast ")] == ["1"]
    assert "no more memory" in output


@pytest.mark.parametrize(
    ("option", "value", "status", "words"),
    [
        ("--path", "quick", 2, "There is no path 'quick'"),
        ("--model", "u2netp", 2, "birefnet-hr"),
        ("--size", "100", 2, "multiple of 64"),
        ("--device", "tpu", 1, "There is no device"),
    ],
)
def test_bench_refuses_what_it_cannot_run(option: str, value: str, status: int, words: str) -> None:
    assert words in _invoke("bench", "model", option, value, status=status)


@pytest.mark.parametrize(
    ("command", "missing", "words"),
    [
        ("refine", "numpy", "This needs numpy: pip install 'rmbg-queue[torch]'"),
        ("control", "benchmarks", "run it there, after `make install`"),
    ],
)
def test_what_is_not_installed_is_named_with_how_to_get_it(
    command: str, missing: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert words in _invoke("bench", command, status=1)


def test_bench_gpu_share_shows_what_it_measured_before_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measure(*_: object, **__: object) -> Iterator[Share]:
        yield Share(0, 100.0, 0.01, GpuLoad(), 0.0)
        raise StartError("rmbg up did not start")

    monkeypatch.setattr(gpu_share, "measure_shares", measure)
    output = _invoke("bench", "gpu-share", status=1)
    assert "| the model alone | 100.00 | 1.00× | 10 | – | – |  |" in output
    assert "rmbg up did not start" in output


def test_bench_refine_prints_its_table() -> None:
    sizes = ("--width", "300", "--height", "200", "--runs", "2")
    assert "300x200" in _invoke("bench", "refine", *sizes)
