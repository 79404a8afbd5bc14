"""Self-test of a loaded model: it must reproduce the known matte of a drawn picture.

A wrong file, a broken GPU or an overflow may load without an error and then remove nothing, or
anything. Such a model must not be given work.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np

from inference.errors import ModelError
from inference.models.base import Alpha, MattingModel, Rgb

#: Side of the picture, in pixels.
_SIDE: Final = 96
#: Side of the squares over which mattes are averaged before they are compared, in pixels.
_CELL: Final = 8
_HAIRLINE_Y: Final = 0.24
#: Largest mean difference from the known matte, 0..1. Devices and precisions differ by far less;
#: a model that finds nothing, everything or noise differs by 0.22 and more.
_TOLERANCE: Final = 0.08
#: Least range of a matte: even a model whose matte is not known must find some contrast.
_MIN_SPREAD: Final = 0.01

#: The mattes of models whose weights were at hand: means of squares in percent, row by row.
_EXPECTED_MATTES: Final[Mapping[str, tuple[str, ...]]] = {
    "u2netp": (
        "  0   0   0   0   0   0   0   0   0   0   0   0",
        "  0   0   0   0   0  28  31   1   0   0   0   0",
        "  0   0   0   0  46 100 100  58   0   0   0   0",
        "  0   0   0   0  85 100 100  96   2   0   0   0",
        "  0   0   0   0  82 100 100  92   1   0   0   0",
        "  0   0   0   0  32  98  99  44   0   0   0   0",
        "  0   0   0   0  16  70  77  39   1   0   0   0",
        "  0   0   0  10  47  78  94  88  32   0   0   0",
        "  0   0   1  46  59  84  96  88  52   2   0   0",
        "  0   0  10  87  89  88  90  84  51   7   0   0",
        "  0   0  24  95  94  88  82  74  67  17   0   0",
        "  0   2  25  93  92  87  83  82  84  27   0   0",
    )
}


def check_model_output(model: MattingModel) -> None:
    """Run the model on the test picture, and compare its matte with the known one.

    Raises:
        ModelError: the matte has impossible values, or differs from the known one.
    """
    picture = draw_test_picture()
    (matte,) = model.matte([picture])
    _check_values(model.name, matte)
    known = _EXPECTED_MATTES.get(model.name)
    if known is None:
        return
    expected = np.array([row.split() for row in known], np.float32) / 100
    cells = _SIDE // _CELL
    found = matte.reshape(cells, _CELL, cells, _CELL).mean((1, 3))
    difference = float(np.abs(found - expected).mean())
    if difference > _TOLERANCE:
        raise _self_test_error(model.name, f"it differs by {difference:.2f} from the known one")


def draw_test_picture() -> Rgb:
    """Draw head and shoulders in front of a pale wall, (96, 96, 3)."""
    y, x = np.mgrid[:_SIDE, :_SIDE] / _SIDE
    picture = np.array([210.0, 222.0, 232.0]) - 30 * y[..., None]
    head = np.hypot((x - 0.5) / 0.16, (y - 0.32) / 0.19) < 1
    shoulders = np.hypot((x - 0.5) / 0.28, (y - 0.92) / 0.42) < 1
    picture[shoulders] = (60, 80, 150)
    picture[head] = (205, 150, 120)
    picture[head & (y < _HAIRLINE_Y)] = (60, 40, 30)
    rgb: Rgb = picture.round().astype(np.uint8)
    return rgb


def _check_values(name: str, matte: Alpha) -> None:
    if matte.shape != (_SIDE, _SIDE):
        raise _self_test_error(name, f"it has the shape {matte.shape}")
    if not np.isfinite(matte).all():
        raise _self_test_error(name, "it holds values that are not finite")
    low, high = float(matte.min()), float(matte.max())
    if low < 0 or high > 1:
        raise _self_test_error(
            name, f"its values run from {low:.2f} to {high:.2f}, but must be 0 to 1"
        )
    if high - low < _MIN_SPREAD:
        raise _self_test_error(name, f"it is {low:.2f} everywhere")


def _self_test_error(name: str, problem: str) -> ModelError:
    return ModelError(
        f"The model {name} fails its self-test. Its matte of the test picture is wrong: {problem}. "
        "Check the weights (rmbg doctor), RMBG_PRECISION, RMBG_PATCH_ORDER and the device."
    )
