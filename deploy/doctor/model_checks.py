"""The model's file, and the device that it is to run on: on this machine."""

import importlib.util
from collections.abc import Iterator

from deploy.doctor.findings import Finding, fail, ok, warn
from inference.errors import ModelError
from inference.models.files import find_fault
from inference.models.registry import ModelSpec, get_spec
from tasks.settings import Settings


def check_model(settings: Settings, *, served: bool) -> Iterator[Finding]:
    """File and device.

    Args:
        settings: which model, where its file lies, which device.
        served: a worker serves the model already, so that this machine need not be able to.
    """
    try:
        spec = get_spec(settings.model)
    except ModelError as error:
        yield fail("model.file", str(error), "correct RMBG_MODEL; see `rmbg models list`")
        return
    yield _file(spec, settings, served=served)
    yield _device(spec, settings)


def _file(spec: ModelSpec, settings: Settings, *, served: bool) -> Finding:
    path = settings.model_file(spec.file_name)
    try:
        fault = find_fault(spec, path)
    except OSError as error:
        fault = f"cannot be read ({error.strerror})"
    if fault is None:
        return ok("model.file", f"{spec.name}: {path}")
    advice = f"fetch it: rmbg models fetch {spec.name}"
    if served:
        text = f"{path} {fault} on this machine, but a worker has the model"
        return warn("model.file", text, f"if a model worker is to run here, {advice}")
    return fail("model.file", f"{path} {fault}", advice)


def _device(spec: ModelSpec, settings: Settings) -> Finding:
    wanted = settings.device
    if wanted == "cpu":
        return ok("model.device", "cpu, as asked for")
    module = "onnxruntime" if spec.engine == "onnx" else "torch"
    if importlib.util.find_spec(module) is None:
        text = f"{module}, which runs {spec.name}, is not installed on this machine"
        extra = "cpu" if spec.engine == "onnx" else "torch"
        advice = f"if a model worker is to run here: pip install 'rmbg-queue[{extra}]'"
        return warn("model.device", text, advice)
    return _onnx_device(wanted) if spec.engine == "onnx" else _torch_device(wanted)


def _onnx_device(wanted: str) -> Finding:
    import onnxruntime  # noqa: PLC0415 - the command line starts without it

    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if wanted == "auto":
        return ok("model.device", f"auto: {'CUDA' if has_cuda else 'the CPU'}")
    if has_cuda:
        return ok("model.device", f"{wanted}, by ONNX Runtime")
    return fail(
        "model.device",
        f"{wanted} was asked for, but this ONNX Runtime has no CUDA",
        "install onnxruntime-gpu, or set RMBG_DEVICE=cpu",
    )


def _torch_device(wanted: str) -> Finding:
    from inference.models.birefnet.device import choose_device  # noqa: PLC0415 - imports torch

    try:
        chosen = choose_device(wanted)
    except ModelError as error:
        return fail("model.device", str(error), "correct RMBG_DEVICE, or the driver")
    if wanted == "auto" and chosen.type == "cpu":
        text = "no GPU was found, and the CPU takes seconds a picture"
        return warn(
            "model.device", text, "if there is a GPU, check nvidia-smi; else RMBG_DEVICE=cpu"
        )
    return ok("model.device", f"{wanted}: {chosen}")
