"""The ways to run a network, measured in turn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.models.birefnet.device import gpu_faults
from inference.models.birefnet.fast.runners import ExecutionPath
from inference.models.birefnet.golden import golden_input, golden_network
from inference.models.birefnet.measuring.clock import current
from inference.models.birefnet.measuring.contender import Contender, Rounds, Setting


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured of one path for one size of batch."""

    #: How the network was run.
    path: str
    #: Why not as was asked; empty if it was.
    reason: str
    batch: int
    milliseconds: float
    #: The same with pictures as an engine gets them and mattes as it answers; None if not asked.
    loop_milliseconds: float | None
    #: Most while it ran: of what torch holds of the GPU, or of all that the process held.
    peak_bytes: int
    #: From weights in memory to the first answer.
    start_seconds: float
    #: Largest difference of one matte from the float32 reference's, 0..1; None if not compared.
    alpha_error: float | None

    @property
    def images_per_second(self) -> float:
        """Pictures through the network."""
        return 1000 * self.batch / self.milliseconds


@torch.inference_mode()
def measure(
    setting: Setting,
    paths: Sequence[ExecutionPath],
    *,
    batches: Sequence[int],
    runs: int,
    check: bool = False,
) -> Iterator[Measurement]:
    """Time a network with stand-in weights: medians of `runs` rounds, after a warm-up.

    In each round every path runs once, so that a machine whose speed drifts is as fast for one as
    for the others. All of them are in memory together: measure one alone to see what it needs.

    Args:
        setting: what they have in common.
        paths: how the network is run.
        batches: pictures at once.
        runs: rounds.
        check: first compare one picture's matte with the float32 reference's.

    Raises:
        ModelError: the GPU failed or its memory is full.
    """
    expected = _reference(setting) if check else None
    torch.compiler.reset()  # what was compiled before would save a start its time
    with gpu_faults(setting.device), current(setting.device):
        contenders = [Contender(setting, path) for path in paths]
        errors = [None if expected is None else one.error(expected) for one in contenders]
        for batch in batches:
            rounds = _take_turns(contenders, batch, runs)
            for contender, measured, error in zip(contenders, rounds, errors, strict=True):
                yield _summed_up(contender, batch, measured, error)


def _reference(setting: Setting) -> Tensor:
    logits: Tensor = golden_network(setting.config)(torch.from_numpy(golden_input(setting.size)))
    return logits


def _take_turns(contenders: Sequence[Contender], batch: int, runs: int) -> list[Rounds]:
    for contender in contenders:
        contender.warm_up(batch)
    measured = [Rounds() for _ in contenders]
    for _ in range(runs):
        for contender, rounds in zip(contenders, measured, strict=True):
            contender.measure(batch, rounds)
    return measured


def _summed_up(
    contender: Contender, batch: int, rounds: Rounds, error: float | None
) -> Measurement:
    return Measurement(
        path=contender.run.path.value,
        reason=contender.run.reason,
        batch=batch,
        milliseconds=rounds.median(),
        loop_milliseconds=rounds.median_of_loop(),
        peak_bytes=max(rounds.peaks),
        start_seconds=contender.start_seconds,
        alpha_error=error,
    )
