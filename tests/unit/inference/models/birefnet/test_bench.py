"""What `rmbg bench model` measures, and in which order."""

import mmap
from types import SimpleNamespace

import pytest
import torch

from inference.models.birefnet import bench
from inference.models.birefnet.bench import BenchmarkSettings, Timings, compare_paths
from inference.models.birefnet.config import PRESETS
from inference.models.birefnet.fast.runners import ExecutionPath

_CPU = torch.device("cpu")


class _Noted:
    """A candidate whose every measurement takes as many milliseconds as there are notes."""

    start_seconds = 0

    def __init__(self, path: ExecutionPath, notes: list[str]) -> None:
        self.runner, self.notes = SimpleNamespace(path=path, reason=""), notes

    def warm_up(self, batch: int) -> None:
        self.notes.append(f"{self.runner.path} warm {batch}")

    def measure(self, batch: int, timings: Timings) -> None:
        self.notes.append(f"{self.runner.path} {batch}")
        timings.milliseconds.append(len(self.notes))
        timings.peaks.append(len(self.notes))


def test_in_each_round_every_path_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr(bench, "Candidate", lambda _settings, path: _Noted(path, notes))
    settings = BenchmarkSettings(PRESETS["birefnet-tiny"], _CPU, torch.float32, 64)
    paths = ExecutionPath.REFERENCE, ExecutionPath.FAST
    first, second = compare_paths(settings, paths, batches=[4], runs=2)
    warm_ups, in_turn = ["reference warm 4", "fast warm 4"], ["reference 4", "fast 4"]
    assert notes == [*warm_ups, *in_turn, *in_turn]
    assert (first.path, first.milliseconds, first.peak_bytes) == ("reference", 4, 5)
    assert (second.path, second.milliseconds, second.peak_bytes) == ("fast", 5, 6)
    assert first.loop_milliseconds is None


def test_a_peak_is_forgotten() -> None:
    try:
        bench._PROC_SELF.joinpath("clear_refs").write_text("5", encoding="ascii")
    except OSError:
        pytest.skip("this system does not let a process reset its peak")
    before = bench.peak_memory_bytes(_CPU)
    # Pages of its own: what an allocator gives may fit in what was freed before.
    with mmap.mmap(-1, 64 << 20) as much:
        for page in range(0, len(much), mmap.PAGESIZE):
            much[page] = 1
        assert bench.peak_memory_bytes(_CPU) >= before + (50 << 20)
        held = bench.peak_memory_bytes(_CPU)
    bench.reset_peak_memory(_CPU)
    assert bench.peak_memory_bytes(_CPU) <= held - (50 << 20)


def test_operations_are_those_of_the_published_cost() -> None:
    # The published 2534.9 GFLOP of RMBG-2.0 at 1024 include the projections of window padding and
    # the last convolutions at full width, which this network saves.
    assert 2.2e12 < bench.count_flops(PRESETS["rmbg-2.0"], 1024) < 2.5349e12
