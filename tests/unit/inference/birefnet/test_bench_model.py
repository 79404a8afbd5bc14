"""What `rmbg bench model` measures, and in which order."""

from typing import cast

import pytest
import torch

from inference.models.birefnet import bench
from inference.models.birefnet.bench import Candidate, Timings

_CPU = torch.device("cpu")


class _Noted:
    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    def warm_up(self, batch: int) -> None:
        self.notes.append(f"{self.name} warm {batch}")

    def measure(self, batch: int, timings: Timings) -> None:
        self.notes.append(f"{self.name} {batch}")
        timings.milliseconds.append(len(self.notes))


def test_in_each_round_every_path_runs_once() -> None:
    notes: list[str] = []
    candidates = [cast("Candidate", _Noted(name, notes)) for name in "ab"]
    first, second = bench._time_in_rounds(candidates, 4, 2)
    assert notes == ["a warm 4", "b warm 4", "a 4", "b 4", "a 4", "b 4"]
    assert (first.milliseconds, second.milliseconds) == ([3, 5], [4, 6])


def test_a_peak_is_forgotten() -> None:
    try:
        bench._PROC_SELF.joinpath("clear_refs").write_text("5", encoding="ascii")
    except OSError:
        pytest.skip("this system does not let a process reset its peak")
    before = bench.peak_memory_bytes(_CPU)
    much = torch.ones(64 << 20, dtype=torch.uint8)
    assert bench.peak_memory_bytes(_CPU) >= before + (50 << 20)
    held = bench.peak_memory_bytes(_CPU)
    del much
    bench.reset_peak_memory(_CPU)
    assert bench.peak_memory_bytes(_CPU) <= held - (50 << 20)
