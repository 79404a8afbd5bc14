"""From a model's facts and its file to a model that can run."""

from pathlib import Path

from inference.errors import ModelError
from inference.models.base import Matting
from inference.models.files import find_fault
from inference.models.registry import ModelSpec


def load_model(
    spec: ModelSpec,
    path: Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> Matting:
    """Check the weights and load them.

    Args:
        spec: the model's facts.
        path: its file of weights.
        device: `auto`, `cpu`, `cuda` or `cuda:N`. Only `auto` may choose the CPU by itself.
        precision: `auto`, `float32`, or what else the engine offers.
        threads: CPU threads for one picture; None leaves it to the engine.

    Raises:
        ModelError: the file is missing or another one, or the device or the precision cannot be
            had; the message says what to do.
    """
    _check_file(spec, path)
    if spec.engine == "onnx":
        from inference.models.onnx import load_onnx  # noqa: PLC0415 - one engine's library only

        return load_onnx(spec, path, device=device, precision=precision, threads=threads)
    raise ModelError(f"The engine {spec.engine!r} of the model {spec.name} is not installed here.")


def _check_file(spec: ModelSpec, path: Path) -> None:
    try:
        fault = find_fault(spec, path)
    except OSError as error:
        raise ModelError(f"The model file {path} cannot be read: {error.strerror}.") from error
    if fault is not None:
        raise ModelError(f"The model file {path} {fault}. Run: rmbg models fetch {spec.name}")
