"""What `rmbg bench model` counts; deploy/cli/test_bench.py shows its table."""

import mmap

import pytest
import torch

from inference.models.birefnet import bench
from inference.models.birefnet.config import PRESETS

_CPU = torch.device("cpu")


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
