"""From a model's facts and its file to a model that can run."""

from pathlib import Path

from inference.errors import ModelError
from inference.models.base import MattingModel
from inference.models.birefnet.config import PRESETS, PatchOrder
from inference.models.registry import ModelSpec
from inference.models.weights import check_weights, find_weights_file


def load_model(
    spec: ModelSpec,
    path: Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    patch_order: PatchOrder | None = None,
    compile_: str = "auto",
    cache: Path | None = None,
) -> MattingModel:
    """Check the weights and load them.

    Args:
        spec: the model's facts.
        path: its file of weights, or a folder with a file of the usual name.
        device: `auto`, `cpu`, `cuda` or `cuda:N`. Only `auto` may choose the CPU by itself.
        precision: `auto`, `fp32`, `fp16` or `bf16`, of which an engine may offer fewer.
        threads: CPU threads for one picture; None leaves it to the engine.
        patch_order: of a BiRefNet checkpoint whose SHA-256 is not a known one; None goes by the
            model's name.
        compile_: `auto` for an engine's quickest path, `off` for its plainest.
        cache: folder for what an engine compiles, for its next start; None keeps nothing.

    Raises:
        ModelError: the file is missing or another one, or the device or the precision cannot be
            had; the message says what to do.
    """
    try:
        if spec.engine == "birefnet":
            order = patch_order or spec.patch_order
            return _load_birefnet(
                spec,
                path,
                device=device,
                precision=precision,
                threads=threads,
                patch_order=order,
                compile_=compile_,
                cache=cache,
            )
        check_weights(spec, path)
        from inference.models.onnx import load_onnx  # noqa: PLC0415 - one engine's library only

        file = find_weights_file(spec, path)
        return load_onnx(spec, file, device=device, precision=precision, threads=threads)
    except ModuleNotFoundError as error:
        extra = {"birefnet": "torch", "onnx": "cpu"}[spec.engine]
        raise ModelError(
            f"The model {spec.name} needs {error.name}: pip install 'rmbg-queue[{extra}]'"
        ) from error


def _load_birefnet(
    spec: ModelSpec,
    path: Path,
    *,
    device: str,
    precision: str,
    threads: int | None,
    patch_order: PatchOrder | None,
    compile_: str,
    cache: Path | None,
) -> MattingModel:
    """Its loader checks the file itself, as it has to read all of it to hash it."""
    from inference.models.birefnet.engine import load_birefnet  # noqa: PLC0415 - imports torch

    return load_birefnet(
        spec.name,
        path,
        PRESETS[spec.name],
        patch_order=patch_order,
        sha256=spec.sha256,
        device=device,
        precision=precision,
        threads=threads,
        compile_=compile_,
        cache=cache,
    )
