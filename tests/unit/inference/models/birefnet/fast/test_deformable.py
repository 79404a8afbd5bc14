"""The deformable convolution against its definition, sample by sample."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from inference.models.birefnet.network import deform_conv2d


def _bilinear(x: NDArray[np.float64], row: float, col: float) -> NDArray[np.float64]:
    """All channels at one place; outside the map lies zero."""
    total = np.zeros(x.shape[0])
    top, left = math.floor(row), math.floor(col)
    for r, c in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= r < x.shape[1] and 0 <= c < x.shape[2]:
            total += x[:, r, c] * (1 - abs(row - r)) * (1 - abs(col - c))
    return total


def _by_definition(
    x: NDArray[np.float64],
    offset: NDArray[np.float64],
    modulator: NDArray[np.float64],
    weight: NDArray[np.float64],
) -> NDArray[np.float64]:
    (_, height, width), kernel = x.shape, weight.shape[-1]
    out = np.zeros((weight.shape[0], height, width))
    for row, col, tap in np.ndindex(height, width, kernel * kernel):
        i, j = divmod(tap, kernel)
        at_row = row + i - kernel // 2 + offset[2 * tap, row, col]
        at_col = col + j - kernel // 2 + offset[2 * tap + 1, row, col]
        sample = _bilinear(x, at_row, at_col) * modulator[tap, row, col]
        out[:, row, col] += weight[:, :, i, j] @ sample
    return out


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize(("height", "width"), [(6, 9), (1, 5), (1, 1)])
def test_equals_its_definition(kernel: int, height: int, width: int) -> None:
    rng = np.random.default_rng(100 * kernel + width)
    x = rng.standard_normal((2, 3, height, width))
    offset = 3 * rng.standard_normal((2, 2 * kernel**2, height, width))  # many lead outside
    modulator = 2 * rng.random((2, kernel**2, height, width))
    weight = rng.standard_normal((4, 3, kernel, kernel))
    arguments = (torch.from_numpy(a.astype(np.float32)) for a in (x, offset, modulator, weight))
    answer = deform_conv2d(*arguments).numpy()
    for index in range(2):
        expected = _by_definition(x[index], offset[index], modulator[index], weight)
        np.testing.assert_allclose(answer[index], expected, atol=2e-4)


def test_without_offsets_it_is_a_plain_convolution() -> None:
    rng = torch.Generator().manual_seed(5)
    x, weight = torch.randn(2, 4, 8, 8, generator=rng), torch.randn(6, 4, 3, 3, generator=rng)
    answer = deform_conv2d(x, torch.zeros(2, 18, 8, 8), torch.ones(2, 9, 8, 8), weight)
    plain = torch.nn.functional.conv2d(x, weight, padding=1)
    torch.testing.assert_close(answer, plain, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_type_and_places(dtype: torch.dtype) -> None:
    # On a map this wide, float16 coordinates would be off by an eighth of a pixel.
    x = torch.linspace(0, 1, 300).view(1, 1, 1, 300)
    offset = torch.full((1, 2, 1, 300), 0.3)
    offset[:, 0] = 0
    weight, modulator = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 300)
    exact = deform_conv2d(x, offset, modulator, weight)
    answer = deform_conv2d(x.to(dtype), offset, modulator, weight.to(dtype))
    assert answer.dtype == dtype
    rounding = torch.finfo(dtype).eps
    assert (answer.float() - exact)[..., :-1].abs().max() <= rounding
