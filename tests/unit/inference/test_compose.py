import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference.compose import Layer, Pixels, combine_alpha, compose
from inference.decode import Picture
from inference.options import Rgba

_HEIGHT, _WIDTH = 70, 31  # no multiple of the rows that are handled at a time


def _picture(seed: int, *, own_alpha: bool) -> tuple[Picture, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (_HEIGHT, _WIDTH, 3), np.uint8)
    own = rng.integers(0, 256, (_HEIGHT, _WIDTH), np.uint8) if own_alpha else None
    matte = np.clip(rng.normal(0.5, 0.6, (_HEIGHT, _WIDTH)), 0, 1).astype(np.float32)
    return Picture(rgb, own), matte


def _compose(picture: Picture, matte: NDArray[np.float32], color: Rgba | None = None) -> Pixels:
    return compose(Layer(picture.rgb, combine_alpha(matte, picture.alpha)), color)


def _alpha(picture: Picture, matte: NDArray[np.float32]) -> NDArray[np.float64]:
    own = 1.0 if picture.alpha is None else picture.alpha / 255
    return np.floor(matte * 255 + 0.5) / 255 * own


def _over(picture: Picture, alpha: NDArray[np.float64], color: Rgba) -> NDArray[np.float64]:
    """The over operator (Porter and Duff, 1984), RGBA not premultiplied, 0..255."""
    behind = color[3] / 255 * (1 - alpha)
    total = alpha + behind
    mixed = alpha[..., None] * picture.rgb + behind[..., None] * np.array(color[:3])
    colors = np.divide(
        mixed, total[..., None], out=np.zeros_like(mixed), where=total[..., None] > 0
    )
    return np.dstack([colors, total * 255])


@pytest.mark.parametrize("own_alpha", [False, True])
def test_a_cutout_keeps_colors_and_multiplies_the_alphas(*, own_alpha: bool) -> None:
    picture, matte = _picture(1, own_alpha=own_alpha)
    result = _compose(picture, matte)
    assert result.shape == (_HEIGHT, _WIDTH, 4)
    assert np.abs(result[..., 3] - _alpha(picture, matte) * 255).max() <= 0.51
    seen = result[..., 3] > 0
    assert np.array_equal(result[seen][:, :3], picture.rgb[seen])


def test_nothing_of_the_background_hides_under_zero_alpha() -> None:
    picture, matte = _picture(2, own_alpha=False)
    result = _compose(picture, matte)
    hidden = result[..., 3] == 0
    assert hidden.any()
    assert not result[hidden].any()


@pytest.mark.parametrize(("level", "expected"), [(0.0, 0), (0.5, 128), (1.0, 255), (1 / 255, 1)])
def test_the_matte_is_rounded_to_the_nearest_level(level: float, expected: int) -> None:
    picture = Picture(np.full((2, 2, 3), 9, np.uint8))
    assert (_compose(picture, np.full((2, 2), level, np.float32))[..., 3] == expected).all()


@pytest.mark.parametrize("own_alpha", [False, True])
def test_an_opaque_color_gives_rgb(*, own_alpha: bool) -> None:
    picture, matte = _picture(3, own_alpha=own_alpha)
    color = (10, 200, 90, 255)
    result = _compose(picture, matte, color)
    assert result.shape == (_HEIGHT, _WIDTH, 3)
    expected = _over(picture, _alpha(picture, matte), color)[..., :3]
    assert np.abs(result - expected).max() <= 1.5


@given(
    color=st.tuples(*[st.integers(0, 255)] * 3, st.integers(0, 254)),
    seed=st.integers(0, 2**32 - 1),
    own_alpha=st.booleans(),
)
def test_a_translucent_color_goes_by_the_over_operator(
    *, color: Rgba, seed: int, own_alpha: bool
) -> None:
    picture, matte = _picture(seed, own_alpha=own_alpha)
    result = _compose(picture, matte, color)
    expected = _over(picture, _alpha(picture, matte), color)
    assert np.abs(result[..., 3] - expected[..., 3]).max() <= 1
    # Compared as they would look: a color matters as much as its alpha.
    weight = expected[..., 3:] / 255
    assert (np.abs(result[..., :3] - expected[..., :3]) * weight).max() <= 2


def test_a_wholly_transparent_color_is_no_color() -> None:
    picture, matte = _picture(4, own_alpha=True)
    assert np.array_equal(_compose(picture, matte, (255, 255, 255, 0)), _compose(picture, matte))


def test_the_picture_is_not_changed() -> None:
    picture, matte = _picture(5, own_alpha=True)
    picture.rgb.flags.writeable = False
    matte.flags.writeable = False
    for color in (None, (1, 2, 3, 255), (1, 2, 3, 100)):
        _compose(picture, matte, color)
