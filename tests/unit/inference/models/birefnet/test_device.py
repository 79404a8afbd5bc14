"""The choice of device and precision, and the errors of a GPU."""

from pathlib import Path

import pytest
import torch

from inference.errors import GpuFaultError, GpuOutOfMemoryError, ModelError
from inference.models.birefnet.config import PRESETS
from inference.models.birefnet.device import choose_device, choose_dtype, translate_gpu_errors
from inference.models.birefnet.engine import load_birefnet

_CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:-1", "cpu:0", ""])
def test_a_misspelt_device_is_named(name: str) -> None:
    with pytest.raises(ModelError, match="There is no device"):
        choose_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_an_absent_gpu_is_never_replaced_by_the_cpu(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"{name} was asked for, but .*device=cpu"):
        load_birefnet("mine", tmp_path, PRESETS["birefnet-tiny"], device=name)
    assert choose_device("auto") == _CPU


def test_precisions_have_their_defaults() -> None:
    assert choose_dtype("auto", _CPU) is torch.float32
    assert choose_dtype("auto", torch.device("cuda", 0)) is torch.float16
    with pytest.raises(ModelError, match="use one of auto, fp32, fp16, bf16"):
        choose_dtype("int8", _CPU)


@pytest.mark.parametrize(
    ("raised", "expected", "code"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), GpuOutOfMemoryError, "gpu_out_of_memory"),
        (torch.AcceleratorError("an illegal access"), GpuFaultError, "gpu_fault"),
        (RuntimeError("CUDA error: unspecified launch failure"), GpuFaultError, "gpu_fault"),
        (RuntimeError("cuDNN error: EXECUTION_FAILED\nmore"), GpuFaultError, "gpu_fault"),
    ],
    ids=["memory", "accelerator", "cuda", "cudnn"],
)
def test_gpu_failures_have_their_own_errors(
    raised: RuntimeError, expected: type[ModelError], code: str
) -> None:
    with pytest.raises(expected) as caught, translate_gpu_errors(torch.device("cuda", 1)):
        raise raised
    assert caught.value.code == code
    assert caught.value.retryable
    assert "cuda:1" in str(caught.value)
    assert caught.value.__cause__ is raised


def test_other_errors_are_left_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), translate_gpu_errors(_CPU):
        raise RuntimeError("shapes differ")
