"""A BiRefNet on a device that fails on command, for `celery -A tests.support.faulty_gpu_app`.

Files in the model folder command it: `trap` breaks the context of whatever process is about to run
the model on a MARKED picture, `trap-once` the next one's. On a GPU a kernel traps, as by an index
out of its range; on a CPU, torch's error of such a GPU is raised in the same place.

A full memory is real on a GPU: `tests.support.gpu_hog` fills it. On a CPU, torch's error is raised
for MARKED pictures while there is `full`, and as the model is loaded while there is `full-start`.
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from tasks.settings import Settings
from tasks.worker.startup import load_served_model

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from inference.models.base import MattingModel, Rgb

#: The red of a MARKED picture's upper left corner.
MARKED = 10
TRAP, TRAP_ONCE, FULL, FULL_START = GPU_COMMANDS = ("trap", "trap-once", "full", "full-start")
#: Side of the pictures that the network gets on a CPU, where 1024 pixels take seconds.
_SIDE_ON_CPU = 128


def load_on_faulty_device(settings: Settings) -> "MattingModel":
    # Here, since the parent does not load torch.
    from inference.models import load  # noqa: PLC0415 - see above
    from inference.models.birefnet import engine  # noqa: PLC0415 - see above
    from inference.models.birefnet.device import translate_gpu_errors  # noqa: PLC0415 - see above

    on_cpu = settings.device == "cpu"
    if on_cpu:
        shape = replace(load.PRESETS[settings.model], input_size=_SIDE_ON_CPU)
        load.PRESETS = MappingProxyType({settings.model: shape})
    engine.preprocess = _obeying(settings.model_dir, engine.preprocess)
    with translate_gpu_errors(engine.choose_device(settings.device)):
        if on_cpu and (settings.model_dir / FULL_START).exists():
            _raise_full()
        return load_served_model(settings)


def _obeying(
    folder: Path, preprocess: "Callable[[Rgb, int, torch.device], torch.Tensor]"
) -> "Callable[[Rgb, int, torch.device], torch.Tensor]":
    def obey(image: "Rgb", side: int, device: "torch.device") -> "torch.Tensor":
        if image[0, 0, 0] == MARKED:
            if device.type == "cpu" and (folder / FULL).exists():
                _raise_full()
            if (folder / TRAP).exists() or _taken(folder / TRAP_ONCE):
                _trap(device)
        return preprocess(image, side, device)

    return obey


def _taken(file: Path) -> bool:
    """Is there this file? Once: it is gone then."""
    with suppress(FileNotFoundError):
        file.unlink()
        return True
    return False


def _trap(device: "torch.device") -> None:
    """Launch a kernel that traps. Torch raises its error at any later call, not here."""
    import torch  # noqa: PLC0415 - see above

    if device.type == "cpu":
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")
    beyond = torch.tensor([1], device=device)
    torch.zeros(1, device=device)[beyond]


def _raise_full() -> None:
    import torch  # noqa: PLC0415 - see above

    raise torch.OutOfMemoryError("CUDA out of memory.")
