"""`rmbg models logits` and `rmbg bench`, as a person runs them."""

from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from safetensors.torch import save_file
from typer.testing import CliRunner

from deploy.cli import bench
from deploy.cli.models import logits
from inference.errors import GpuOutOfMemoryError
from inference.models.birefnet.bench import Candidate, Roofline, Timings, count_flops
from inference.models.birefnet.config import PRESETS, PatchOrder
from inference.models.birefnet.golden import golden_input, golden_network, golden_state

_TINY = ("--model", "birefnet-tiny")


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.add_typer(bench.app, name="bench")
    app.command()(logits)
    return app


def _run(app: typer.Typer, *arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def _fail(app: typer.Typer, *arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False)
    assert result.exit_code != 0
    return result.output


def test_golden_logits_equal_those_of_the_same_weights_in_a_file(
    app: typer.Typer, tmp_path: Path
) -> None:
    made_up, read = tmp_path / "made-up.npy", tmp_path / "read.npy"
    _run(
        app,
        *("logits", "--keys-from", "golden", "--seed", "s7", "--size", "96"),
        *("--out", str(made_up), *_TINY),
    )
    weights, picture = tmp_path / "w.safetensors", tmp_path / "x.npy"
    save_file(golden_state(PRESETS["birefnet-tiny"], "s7"), weights)
    np.save(picture, golden_input(96, "s7"))
    files = ("--weights", str(weights), "--input", str(picture), *_TINY)
    _run(app, "logits", *files, "--patch-order", "rmbg-2.0", "--out", str(read))
    assert np.load(made_up).shape == (96, 96)
    np.testing.assert_allclose(np.load(read), np.load(made_up), atol=1e-4)
    _run(app, "logits", *files, "--patch-order", "birefnet", "--out", str(read))
    assert np.abs(np.load(read) - np.load(made_up)).max() > 0.05


def test_logits_name_what_is_wrong(app: typer.Typer, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "out.npy"))
    assert "multiple of 32" in _fail(app, "logits", "--keys-from", "golden", "--size", "100", *out)
    assert "Give either" in _fail(app, "logits", *out)
    picture, weights = tmp_path / "x.npy", tmp_path / "absent.safetensors"
    files = ("--weights", str(weights), "--input", str(picture))
    picture.write_bytes(b"no array")
    assert "cannot be read as a .npy array" in _fail(app, "logits", *files, *out)
    np.save(picture, np.zeros((2, 64, 64), np.float32))
    assert "give (batch, 3, height, width)" in _fail(app, "logits", *files, *out)
    np.save(picture, golden_input(64))
    assert "There are no weights at" in _fail(app, "logits", *files, *out)


def test_bench_model_prints_its_table(app: typer.Typer) -> None:
    options = ("--device", "cpu", "--size", "64", "--runs", "1", "--batch", "1", "--batch", "2")
    table = _run(app, "bench", "model", *_TINY, *options, "--check", "--loop")
    assert "birefnet-tiny, cpu, 64², float32, median of 1" in table
    (head,) = (line for line in table.splitlines() if line.startswith("path"))
    names = ["batch", "ms", "loop", "ms", "images/s", "gain", "MiB", "roof", "start", "error"]
    assert head.split() == ["path", *names]
    assert len(head) <= 80
    for path in ("reference", "fast"):
        rows = [line.split() for line in table.splitlines() if line.startswith(path)]
        assert [row[1] for row in rows] == ["1", "2"]
        assert all(row[-1] == "0.000" for row in rows)
    assert "GFLOP a picture" in table


def test_bench_model_measures_no_more_than_it_is_asked(app: typer.Typer) -> None:
    options = ("--device", "cpu", "--size", "64", "--runs", "1", "--path", "fast")
    table = _run(app, "bench", "model", *_TINY, *options)
    assert "loop" not in table
    assert "error" not in table
    assert "gain: speed-up over fast." in table


def test_bench_model_shows_what_it_measured_before_a_failure(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Candidate.measure

    def measure(self: Candidate, batch: int, rounds: Timings) -> None:
        if batch > 1:
            raise GpuOutOfMemoryError("no more memory")
        measured(self, batch, rounds)

    monkeypatch.setattr(Candidate, "measure", measure)
    options = ("--device", "cpu", "--size", "64", "--runs", "1", "--batch", "1", "--batch", "2")
    output = _fail(app, "bench", "model", *_TINY, *options)
    assert [line.split()[1] for line in output.splitlines() if line.startswith("fast ")] == ["1"]
    assert "no more memory" in output


def test_bench_refuses_a_path_that_there_is_not(app: typer.Typer) -> None:
    assert "There is no path 'quick'" in _fail(app, "bench", "model", *_TINY, "--path", "quick")


def test_bench_refuses_what_it_cannot_run(app: typer.Typer) -> None:
    assert "birefnet-hr" in _fail(app, "bench", "model", "--model", "u2netp")
    assert "multiple of 64" in _fail(app, "bench", "model", "--size", "100")
    assert "There is no device" in _fail(app, "bench", "model", "--device", "tpu")


def test_bench_refine_prints_its_table(app: typer.Typer) -> None:
    sizes = ("--width", "300", "--height", "200", "--runs", "2")
    assert "300x200" in _run(app, "bench", "refine", *sizes)


def test_the_roofline_is_the_arithmetic_at_the_devices_peak() -> None:
    roofline = Roofline(gflop=100, tflops=2, source="made up")
    assert roofline.milliseconds == pytest.approx(50)


def test_operations_are_those_of_the_published_cost() -> None:
    # The published 2534.9 GFLOP of RMBG-2.0 at 1024 include the projections of window padding and
    # the last convolutions at full width, which this network saves.
    assert 2.2e12 < count_flops(PRESETS["rmbg-2.0"], 1024) < 2.5349e12


def test_stand_in_weights_depend_on_their_seed_alone() -> None:
    config = PRESETS["birefnet-tiny"]
    first, again, other = (golden_state(config, seed) for seed in ("a", "a", "b"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = "decoder.conv_out1.0.weight"
    assert not torch.equal(first[name], other[name])
    assert golden_network(config, "a").config.patch_order is PatchOrder.BIREFNET
