"""`refine` reaches the pixels, and only when it is asked for."""

import io

import numpy as np
import pytest
from PIL import Image

from inference.errors import InvalidOptionError
from inference.models.base import Alpha, Rgb, StageHook, no_stages
from inference.options import Options
from inference.pipeline import remove_background

_SIDE = 64


class _Ramp:
    """A model whose matte rises from left to right, and is nowhere hard."""

    name = "ramp"

    def warm_up(self) -> None: ...

    def matte(self, images: list[Rgb], stages: StageHook = no_stages) -> list[Alpha]:  # noqa: ARG002 - the protocol's signature
        row = np.linspace(0.1, 0.9, _SIDE, dtype=np.float32)
        return [np.tile(row, (_SIDE, 1)) for _ in images]


def _cut_out(options: Options) -> np.ndarray:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((_SIDE, _SIDE)).rotate(90).convert("RGB").save(file, "PNG")
    result = remove_background(file.getvalue(), options, _Ramp())
    return np.asarray(Image.open(io.BytesIO(result.data)))


def test_soft_edges_are_refined_unless_that_is_refused() -> None:
    refined, plain = _cut_out(Options()), _cut_out(Options(refine=False))
    np.testing.assert_array_equal(refined[..., 3], plain[..., 3])
    assert (refined[..., :3] != plain[..., :3]).any()
    columns = plain[0, :, 0].astype(int)
    assert columns[-1] > columns[0] + 200, "the plain cutout keeps the photo's own colors"


@pytest.mark.parametrize("value", [1, "true", None])
def test_refine_is_true_or_false(value: object) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        Options.from_dict({"refine": value})
    assert caught.value.field == "refine"
