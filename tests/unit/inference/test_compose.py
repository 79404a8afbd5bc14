"""Colors, backgrounds and shadows lie behind the subject as the over operator says."""

import numpy as np
import pytest
from PIL import Image

from inference.compose import Layer, compose
from inference.layout import Box
from inference.models.base import Alpha, Rgb
from inference.options import Rgba
from tests.support.cutouts import cut_out
from tests.support.pictures import RED, SUBJECT, find_red, picture_file


def _layer() -> Layer:
    """Random colors and alpha, which nothing may write to."""
    rng = np.random.default_rng(1)
    size = (70, 31)  # no multiple of the rows that are handled at a time
    rgb, alpha = (rng.integers(0, 256, shape, np.uint8) for shape in ((*size, 3), size))
    alpha[:9] = rng.choice([0, 255], (9, 31))
    rgb.flags.writeable = alpha.flags.writeable = False
    return Layer(rgb, alpha)


@pytest.mark.parametrize("color", [None, (255, 255, 255, 0)])
def test_a_cutout_keeps_colors_and_hides_nothing(color: Rgba | None) -> None:
    layer = _layer()
    result = compose(layer, color)
    assert np.array_equal(result[..., 3], layer.alpha)
    seen = layer.alpha > 0
    assert np.array_equal(result[seen][:, :3], layer.rgb[seen])
    assert not result[~seen].any()


@pytest.mark.parametrize("color", [(200, 30, 40, 255), (0, 90, 255, 1), (250, 120, 3, 130)])
def test_a_color_goes_by_the_over_operator(color: Rgba) -> None:
    """Porter and Duff, 1984; RGBA not premultiplied."""
    layer = _layer()
    result = compose(layer, color)
    alpha = layer.alpha[..., None] / 255
    behind = color[3] / 255 * (1 - alpha)
    total = alpha + behind
    colors = (alpha * layer.rgb + behind * np.array(color[:3])) / total
    if color[3] == 255:
        assert np.abs(result - colors).max() <= 1.5
        return
    assert np.abs(result[..., 3:] - total * 255).max() <= 1
    # Compared as they would look: a color matters as much as its alpha.
    assert (np.abs(result[..., :3] - colors) * total).max() <= 2


def test_a_smaller_result_has_no_rim_of_the_old_background() -> None:
    result, pixels = cut_out(max_side=100)
    assert (result.width, result.height) == (100, 67)
    assert (result.full_width, result.full_height) == (300, 200)
    seen = pixels[..., 3] > 0
    # As it would look: a color matters as much as its alpha.
    error = np.abs(pixels[seen][:, :3].astype(int) - RED) * (pixels[seen][:, 3:] / 255)
    assert error.max() <= 2
    assert not pixels[~seen].any()
    box = result.foreground
    assert box is not None
    found = box.left, box.top, box.right, box.bottom
    assert np.abs(np.subtract(found, (20, 17, 53, 30))).max() <= 1


@pytest.mark.parametrize("size", [(100, 100), (900, 200), (30, 600)])
def test_a_background_covers_the_result_evenly(size: tuple[int, int]) -> None:
    ramp = np.zeros((size[1], size[0], 3), np.uint8)
    ramp[..., 1] = np.linspace(0, 255, size[0])[None, :]
    ramp[..., 2] = np.linspace(0, 255, size[1])[:, None]
    background = picture_file(Image.fromarray(ramp))
    _, pixels = cut_out(background=background, background_sha256="0" * 64)
    assert pixels.shape == (200, 300, 3)
    assert (pixels[SUBJECT.slices] == RED).all()
    # One of the two sides is shown from end to end, of the other an even part.
    factor = max(300 / size[0], 200 / size[1])
    for place, shown, whole in (
        (pixels[-20, :, 1].astype(int), 300, size[0]),
        (pixels[:, -20, 2].astype(int), 200, size[1]),
    ):
        assert np.abs(place.mean() - 127.5) < 3, "centred"
        assert np.ptp(place) == pytest.approx(255 * shown / (whole * factor), abs=8)


def test_a_shadow_lies_below_the_subject_and_is_as_dark_as_asked_for() -> None:
    _, plain = cut_out()
    _, faint = cut_out(shadow="drop", shadow_opacity=20)
    result, dark = cut_out(shadow="drop", shadow_opacity=100)
    assert result.foreground == SUBJECT, "the shadow is not the subject"
    for pixels in (faint, dark):
        assert (pixels[SUBJECT.slices] == plain[SUBJECT.slices]).all()
        cast = pixels[..., 3].astype(int) - plain[..., 3]
        assert cast.min() >= 0
        assert cast[91, 110] > 20
        assert cast[91, 110] > cast[48, 110], "more below than above"
        assert cast[91:, :].sum() > cast[:50, :].sum()
        assert not pixels[(cast > 0) & (plain[..., 3] == 0)][:, :3].any(), "black"
        assert not cast[120:].any()
    assert faint[91, 110, 3] == pytest.approx(0.2 * dark[91, 110, 3], abs=1)
    _, none = cut_out(shadow="drop", shadow_opacity=0)
    assert np.array_equal(none, plain)


def test_a_crop_leaves_room_for_the_shadow() -> None:
    result, pixels = cut_out(crop=True, shadow="drop")
    assert result.foreground == Box(5, 2, 105, 42)
    assert (result.width, result.height) == (110, 50)
    assert max(pixels[0, :, 3].max(), pixels[-1, :, 3].max(), pixels[:, 0, 3].max()) < 8


def _glass(rgb: Rgb) -> Alpha:
    alpha = find_red(rgb)
    alpha[60:80, 80:120] = 0.4
    alpha[60:80, 130:150] = 0
    alpha[:, 59] = alpha[:, 60] * 0.5
    return alpha


def test_glass_becomes_opaque_but_holes_and_edges_stay() -> None:
    kept, filled = (
        cut_out(find=_glass, semitransparency=keep)[1][..., 3] for keep in (True, False)
    )
    assert (kept[60:80, 80:120] == 102).all()
    assert (filled[60:80, 80:120] == 255).all()
    assert (filled[60:80, 130:150] == 0).all(), "a hole"
    assert (filled[55:85, 59] == 128).all(), "a soft edge"
    assert (filled >= kept).all()
