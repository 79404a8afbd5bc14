"""What `rmbg bench model` measures, and in which order."""

from typing import cast

import pytest
import torch

from inference.models.birefnet.measuring import clock, side_by_side
from inference.models.birefnet.measuring.contender import Contender, Rounds

_CPU = torch.device("cpu")


class _Noted:
    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    def warm_up(self, batch: int) -> None:
        self.notes.append(f"{self.name} warm {batch}")

    def measure(self, batch: int, rounds: Rounds) -> None:
        self.notes.append(f"{self.name} {batch}")
        rounds.milliseconds.append(len(self.notes))


def test_in_each_round_every_path_runs_once() -> None:
    notes: list[str] = []
    contenders = [cast("Contender", _Noted(name, notes)) for name in "ab"]
    first, second = side_by_side._take_turns(contenders, 4, 2)
    assert notes == ["a warm 4", "b warm 4", "a 4", "b 4", "a 4", "b 4"]
    assert (first.milliseconds, second.milliseconds) == ([3, 5], [4, 6])
    assert (first.median(), first.median_of_loop()) == (4, None)


def test_a_peak_is_forgotten() -> None:
    try:
        clock._PROCESS.joinpath("clear_refs").write_text("5", encoding="ascii")
    except OSError:
        pytest.skip("this system does not let a process reset its peak")
    before = clock.peak_bytes(_CPU)
    much = torch.ones(64 << 20, dtype=torch.uint8)
    assert clock.peak_bytes(_CPU) >= before + (50 << 20)
    held = clock.peak_bytes(_CPU)
    del much
    clock.forget_peak(_CPU)
    assert clock.peak_bytes(_CPU) <= held - (50 << 20)
