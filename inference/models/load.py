"""From a model's facts and its file to a model that can run."""

from pathlib import Path

from inference.errors import ModelError
from inference.models.base import Matting
from inference.models.birefnet.config import PRESETS
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
        path: its file of weights; for a BiRefNet, a folder with `model.safetensors` will do too.
        device: `auto`, `cpu`, `cuda` or `cuda:N`. Only `auto` may choose the CPU by itself.
        precision: `auto`, `fp32`, `fp16` or `bf16`, of which an engine may offer fewer.
        threads: CPU threads for one picture; None leaves it to the engine.

    Raises:
        ModelError: the file is missing or another one, or the device or the precision cannot be
            had; the message says what to do.
    """
    try:
        if spec.engine == "birefnet":
            return _load_birefnet(spec, path, device, precision, threads)
        _check_file(spec, path)
        from inference.models.onnx import load_onnx  # noqa: PLC0415 - one engine's library only

        return load_onnx(spec, path, device=device, precision=precision, threads=threads)
    except ModuleNotFoundError as error:
        extra = {"birefnet": "torch", "onnx": "cpu"}[spec.engine]
        raise ModelError(
            f"The model {spec.name} needs {error.name}: pip install 'rmbg-queue[{extra}]'"
        ) from error


def _load_birefnet(
    spec: ModelSpec, path: Path, device: str, precision: str, threads: int | None
) -> Matting:
    """Its loader checks the file itself, as it has to read all of it to hash it."""
    from inference.models.birefnet.engine import load_birefnet  # noqa: PLC0415 - imports torch

    return load_birefnet(
        spec.name,
        path,
        PRESETS[spec.name],
        patch_order=spec.patch_order,
        sha256=spec.sha256,
        device=device,
        precision=precision,
        threads=threads,
    )


def _check_file(spec: ModelSpec, path: Path) -> None:
    try:
        fault = find_fault(spec, path)
    except OSError as error:
        raise ModelError(f"The model file {path} cannot be read: {error.strerror}.") from error
    if fault is not None:
        raise ModelError(f"The model file {path} {fault}. Run: rmbg models fetch {spec.name}")
