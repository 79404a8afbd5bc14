"""Choose the device and the precision of a network, and translate the errors of GPUs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import torch

from inference.errors import GpuFaultError, GpuOutOfMemoryError, ModelError

_DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
)


def choose_device(name: str) -> torch.device:
    """Return a device by name: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        ModelError: the name is unknown, or the GPU does not exist. The CPU never replaces it: that
            would be a hundred times slower and look like a hang.
    """
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if name == "cpu":
        return torch.device("cpu")
    kind, colon, number = name.partition(":")
    if kind != "cuda" or (colon and not number.isdecimal()):
        raise ModelError(f"There is no device {name!r}: use auto, cpu, cuda or cuda:N.")
    index = int(number or 0)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index < count:
        return torch.device("cuda", index)
    if torch.version.cuda is None:
        reason = "this torch was built for the CPU: install a CUDA build of torch"
    elif not count:
        reason = "CUDA finds no GPU: check the driver with nvidia-smi, and CUDA_VISIBLE_DEVICES"
    else:
        reason = f"there are only {count}, numbered from 0: correct the number"
    raise ModelError(f"The device {name} was asked for, but {reason}, or use device=cpu.")


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the number type of a precision; `auto` is fp16 on a GPU and fp32 on the CPU.

    Raises:
        ModelError: the precision is unknown.
    """
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in _DTYPES:
        known = ", ".join(("auto", *_DTYPES))
        raise ModelError(f"There is no precision {name!r}: use one of {known}.")
    return _DTYPES[name]


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def translate_gpu_errors(device: torch.device) -> Iterator[None]:
    """Turn torch's errors about a GPU into this project's.

    Raises:
        GpuOutOfMemoryError: the memory is full; the cache was emptied, so the next job may fit.
        GpuFaultError: the CUDA context is broken; only a new process helps.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise GpuOutOfMemoryError(
            f"The memory of {device} is full. Use a smaller batch or fewer workers on this GPU, "
            "or precision=fp16."
        ) from error
    except RuntimeError as error:
        # Errors of cuBLAS and cuDNN are plain RuntimeErrors, recognizable by their text alone.
        marks = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "cuDNN error")
        text = str(error)
        faulty = isinstance(error, torch.AcceleratorError) or any(mark in text for mark in marks)
        if not faulty:
            raise
        first_line = (text.splitlines() or [type(error).__name__])[0].rstrip(".")
        raise GpuFaultError(
            f"{device} failed: {first_line}. This process cannot use it any more; restart the "
            "process."
        ) from error
