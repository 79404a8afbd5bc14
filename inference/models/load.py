"""Load a model: check its weights, and hand them to the engine that runs it."""

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
    """Check a model's weights and load them.

    Args:
        spec: the model.
        path: its file of weights, or a folder with a file of the usual name.
        device: `auto`, `cpu`, `cuda` or `cuda:N`. Only `auto` may fall back to the CPU.
        precision: `auto`, `fp32`, `fp16` or `bf16`; ONNX models run in `fp32` only.
        threads: CPU threads for one picture; None leaves it to the engine.
        patch_order: of a BiRefNet checkpoint whose SHA-256 is not known; None takes the
            registry's.
        compile_: `auto` for an engine's fastest execution path, `off` for the reference path.
        cache: folder in which an engine keeps what it compiles for the next start; None keeps
            nothing.

    Raises:
        ModelError: the file is missing or another one, or the device or the precision is not
            available; the message says what to do.
    """
    # Each engine is imported only when it is needed: an installation has the library of one.
    try:
        if spec.engine == "birefnet":
            from inference.models.birefnet.engine import load_birefnet  # noqa: PLC0415 - see above

            # It checks the file itself, because it has to read all of it anyway.
            return load_birefnet(
                spec.name,
                path,
                PRESETS[spec.name],
                patch_order=patch_order or spec.patch_order,
                sha256=spec.sha256,
                device=device,
                precision=precision,
                threads=threads,
                compile_=compile_,
                cache=cache,
            )
        check_weights(spec, path)
        from inference.models.onnx import load_onnx  # noqa: PLC0415 - see above

        file = find_weights_file(spec, path)
        return load_onnx(spec, file, device=device, precision=precision, threads=threads)
    except ModuleNotFoundError as error:
        extra = {"birefnet": "torch", "onnx": "cpu"}[spec.engine]
        other = {"birefnet": "u2netp", "onnx": "birefnet"}[spec.engine]
        raise ModelError(
            f"The model {spec.name} needs {error.name}, which is not installed here: pip install "
            f"'rmbg-queue[{extra}]', or set RMBG_MODEL to one that does without, such as {other}."
        ) from error
