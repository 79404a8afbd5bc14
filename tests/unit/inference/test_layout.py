"""Exact places, on pictures whose subject is a rectangle that the model knows."""

import io
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from inference.errors import ImageTooLargeError, InvalidOptionError
from inference.layout import Box, limit_size, plan_layout
from inference.models.base import Alpha, Rgb, StageHook, no_stages
from inference.options import Options, OutputFormat
from inference.pipeline import Result, remove_background
from inference.probe import ImageLimits

_RED, _BLUE = (200, 30, 40), (20, 60, 220)
_WIDTH, _HEIGHT = 300, 200
_SUBJECT = Box(60, 50, 160, 90)
_SHA = "0" * 64


class RedModel:
    """The subject is what is more red than blue."""

    name = "red"
    seen: tuple[int, ...] = ()

    def warm_up(self) -> None: ...

    def matte(self, images: Sequence[Rgb], stages: StageHook = no_stages) -> list[Alpha]:
        with stages("preprocess"), stages("inference"):
            self.seen = images[0].shape
            return [(image[..., 0] > image[..., 2]).astype(np.float32) for image in images]


def _png(*subjects: Box, size: tuple[int, int] = (_WIDTH, _HEIGHT)) -> bytes:
    rows = np.full((size[1], size[0], 3), _BLUE, np.uint8)
    for each in subjects:
        rows[each.slices] = _RED
    return _file(Image.fromarray(rows))


def _file(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _cut_out(data: bytes | None = None, **options: Any) -> tuple[Result, np.ndarray]:  # noqa: ANN401 - any option
    result = remove_background(
        data or _png(_SUBJECT), Options.from_dict({"refine": False, **options}), RedModel()
    )
    with Image.open(io.BytesIO(result.data)) as image:
        pixels = np.asarray(image)
    assert pixels.shape[:2] == (result.height, result.width)
    return result, pixels


def _subject(pixels: np.ndarray) -> Box:
    opaque = pixels[..., 3] > 127
    rows, columns = np.flatnonzero(opaque.any(1)), np.flatnonzero(opaque.any(0))
    return Box(columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def test_without_options_all_stays_in_place() -> None:
    result, pixels = _cut_out()
    assert _subject(pixels) == result.foreground == _SUBJECT
    assert (result.full_width, result.full_height) == (_WIDTH, _HEIGHT)
    assert result.coverage == pytest.approx(100 * 40 / (_WIDTH * _HEIGHT))


@pytest.mark.parametrize(
    ("margin", "size", "place"),
    [
        ("0", (100, 40), (0, 0)),
        ("10%", (120, 48), (10, 4)),
        ("5px 10%", (120, 50), (10, 5)),
        ("1px 2px 3px 4px", (106, 44), (4, 1)),
        # Wider than what the picture has around the subject: the margin is empty all the same.
        ("500px", (1100, 1040), (500, 500)),
    ],
)
def test_crop_leaves_the_subject_and_its_margin(
    margin: str, size: tuple[int, int], place: tuple[int, int]
) -> None:
    result, pixels = _cut_out(crop=True, crop_margin=margin)
    assert (result.width, result.height) == size
    expected = Box(*place, place[0] + 100, place[1] + 40)
    assert _subject(pixels) == result.foreground == expected
    assert (pixels[expected.slices] == (*_RED, 255)).all()
    assert np.count_nonzero(pixels[..., 3]) == 100 * 40


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # The larger share decides: 240 of 300 pixels are 80 %.
        ({"scale": 80}, Box(30, 52, 270, 148)),
        ({"scale": 80, "position": "0%"}, Box(0, 0, 240, 96)),
        ({"scale": 80, "position": "100% 50%"}, Box(60, 52, 300, 148)),
        ({"scale": 20, "position": "original"}, Box(80, 58, 140, 82)),
        ({"scale": 100, "position": "original"}, Box(0, 10, 300, 130)),
        ({"position": "center"}, Box(100, 80, 200, 120)),
        ({"position": "100% 0%"}, Box(200, 0, 300, 40)),
        ({"position": "original"}, _SUBJECT),
        ({"scale": 80, "crop": True, "crop_margin": "10%"}, Box(12, 5, 108, 43)),
        ({"scale": 100, "max_side": 150}, Box(0, 20, 150, 80)),
    ],
)
def test_scale_and_position(options: dict[str, object], expected: Box) -> None:
    result, pixels = _cut_out(**options)
    assert result.foreground == expected
    assert _subject(pixels) == expected
    assert (pixels[expected.slices] == (*_RED, 255)).all()
    assert np.count_nonzero(pixels[..., 3]) == expected.width * expected.height


def test_a_smaller_result_has_no_rim_of_the_old_background() -> None:
    result, pixels = _cut_out(max_side=100)
    assert (result.width, result.height) == (100, 67)
    assert (result.full_width, result.full_height) == (_WIDTH, _HEIGHT)
    seen = pixels[..., 3] > 0
    # As it would look: a color matters as much as its alpha.
    error = np.abs(pixels[seen][:, :3].astype(int) - _RED) * (pixels[seen][:, 3:] / 255)
    assert error.max() <= 2
    assert not pixels[~seen].any()
    assert result.foreground is not None
    assert np.abs(np.subtract(_box(result.foreground), (20, 17, 53, 30))).max() <= 1


def _box(box: Box) -> tuple[int, int, int, int]:
    return box.left, box.top, box.right, box.bottom


@given(
    width=st.integers(1, 20_000),
    height=st.integers(1, 20_000),
    max_side=st.none() | st.integers(16, 16_384),
    max_pixels=st.none() | st.integers(1, 50_000_000),
)
def test_limits_hold_and_proportions_stay(
    width: int, height: int, max_side: int | None, max_pixels: int | None
) -> None:
    options = Options(max_side=max_side, max_pixels=max_pixels)
    across, down = limit_size(width, height, options, 50_000_000)
    assert 1 <= across <= width
    assert 1 <= down <= height
    assert across * down <= (max_pixels or 50_000_000)
    assert max(across, down) <= (max_side or 20_000)
    if min(across, down) > 100:
        assert across / down == pytest.approx(width / height, rel=0.03)
    if width * height <= (max_pixels or 50_000_000) and max(width, height) <= (max_side or 20_000):
        assert (across, down) == (width, height)


@pytest.mark.parametrize(
    ("size", "limited"),
    [((6000, 4000), (612, 408)), ((4000, 3000), (577, 433)), ((500, 500), (500, 500))],
)
def test_a_preview_has_a_quarter_of_a_megapixel(
    size: tuple[int, int], limited: tuple[int, int]
) -> None:
    assert limit_size(*size, Options(max_pixels=250_000), 50_000_000) == limited


@given(
    left=st.integers(0, 90),
    top=st.integers(0, 40),
    width=st.integers(1, 10),
    height=st.integers(1, 10),
    crop=st.booleans(),
    scale=st.none() | st.integers(10, 100),
    position=st.sampled_from([None, "original", "center", "0%", "100%", "33.3% 66.6%"]),
    max_side=st.none() | st.integers(16, 200),
)
def test_a_subject_never_leaves_its_result(
    *, left: int, top: int, width: int, height: int, crop: bool, scale: float | None,
    position: str | None, max_side: int | None,
) -> None:  # fmt: skip
    subject = Box(left, top, left + width, top + height)
    options = Options.from_dict(
        {
            "crop": crop,
            "crop_margin": "7% 3px",
            "scale": scale,
            "position": position,
            "max_side": max_side,
        }
    )
    layout = plan_layout(100, 50, subject, options, max_pixels=10_000)
    whole = Box(0, 0, *layout.size)
    assert layout.subject is not None
    for box in (layout.target, layout.subject):
        assert box.intersect(whole) == box
        assert min(box.width, box.height) >= 1
    assert layout.source.intersect(Box(0, 0, 100, 50)) == layout.source


def test_a_region_restricts_the_subject() -> None:
    other = Box(200, 100, 240, 180)
    model = RedModel()
    options = Options.from_dict({"roi": "180px 0 100% 100%", "crop": True, "refine": False})
    result = remove_background(_png(_SUBJECT, other), options, model)
    assert (result.width, result.height) == (other.width, other.height)
    assert model.seen == (_HEIGHT, 120, 3), "the model looks at the region alone"
    _, pixels = _cut_out(_png(_SUBJECT, other), roi="0 0 50% 50%")
    # 150 x 100 pixels: the first subject is cut by it on the right.
    assert _subject(pixels) == Box(60, 50, 150, 90)


def test_a_region_beyond_the_picture_is_found_before_the_model_runs() -> None:
    model = RedModel()
    with pytest.raises(InvalidOptionError, match="only 300 x 200"):
        remove_background(_png(_SUBJECT), Options.from_dict({"roi": "0 0 301px 10px"}), model)
    assert model.seen == ()


def test_a_picture_without_a_subject_stays_as_it_is() -> None:
    result, pixels = _cut_out(_png(), crop=True, scale=50, position="0%", shadow="drop")
    assert (result.width, result.height, result.foreground) == (_WIDTH, _HEIGHT, None)
    assert result.coverage == 0
    assert not pixels.any()


def test_no_result_has_more_pixels_than_an_input_may() -> None:
    options = Options.from_dict({"crop": True, "crop_margin": "500px"})
    limits = ImageLimits(max_pixels=_WIDTH * _HEIGHT)
    result = remove_background(_png(_SUBJECT), options, RedModel(), limits=limits)
    assert result.width * result.height <= limits.max_pixels
    assert (result.full_width, result.full_height) == (1100, 1040)
    with pytest.raises(ImageTooLargeError):
        remove_background(_png(size=(301, 200)), options, RedModel(), limits=limits)


def test_a_mask_is_the_subjects_alpha_in_gray() -> None:
    result, pixels = _cut_out(output="mask", crop=True, crop_margin="10px")
    assert result.format is OutputFormat.PNG
    assert pixels.shape == (60, 120)
    assert (pixels[10:50, 10:110] == 255).all()
    assert np.count_nonzero(pixels) == 100 * 40
    for name in ("jpg", "webp"):
        _, lossy = _cut_out(output="mask", output_format=name)
        assert lossy[70, 110].min() > 250
        assert lossy[0, 0].max() < 5


def test_a_zip_holds_what_the_png_shows() -> None:
    options = {"crop": True, "crop_margin": "20px", "scale": 60, "max_side": 90}
    _, expected = _cut_out(**options)
    result = remove_background(
        _png(_SUBJECT), Options.from_dict({**options, "output_format": "zip"}), RedModel()
    )
    assert result.format.media_type == "application/zip"
    with zipfile.ZipFile(io.BytesIO(result.data)) as archive:
        entries = archive.infolist()
        color, alpha = (Image.open(archive.open(each)) for each in entries)
        assert [each.filename for each in entries] == ["color.jpg", "alpha.png"]
        assert {each.compress_type for each in entries} == {zipfile.ZIP_STORED}
        assert (color.mode, alpha.mode) == ("RGB", "L")
        assert np.array_equal(np.asarray(alpha), expected[..., 3])
        seen = expected[..., 3] > 0
        error = np.abs(np.asarray(color, int)[seen] - expected[seen][:, :3])
        assert error.max() <= 24
        assert error.mean() <= 3


def test_a_zips_colors_keep_the_old_background() -> None:
    result = remove_background(
        _png(_SUBJECT), Options.from_dict({"output_format": "zip"}), RedModel()
    )
    with zipfile.ZipFile(io.BytesIO(result.data)) as archive:
        color = np.asarray(Image.open(archive.open("color.jpg")), int)
    assert np.abs(color[0, 0] - _BLUE).max() <= 4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "png"),
        ({"matte_color": [255, 255, 255, 255]}, "jpg"),
        ({"matte_color": [255, 255, 255, 254]}, "png"),
        ({"crop": True}, "jpg"),
        ({"output": "mask"}, "png"),
    ],
)
def test_auto_is_png_where_something_can_be_seen_through(
    options: dict[str, object], expected: str
) -> None:
    result, _ = _cut_out(output_format="auto", **options)
    assert result.format == expected


@pytest.mark.parametrize("size", [(100, 100), (900, 200), (30, 600)])
def test_a_background_covers_the_result_evenly(size: tuple[int, int]) -> None:
    ramp = np.zeros((size[1], size[0], 3), np.uint8)
    ramp[..., 1] = np.linspace(0, 255, size[0])[None, :]
    ramp[..., 2] = np.linspace(0, 255, size[1])[:, None]
    options = Options.from_dict({"background_sha256": _SHA, "refine": False})
    result = remove_background(
        _png(_SUBJECT), options, RedModel(), background=_file(Image.fromarray(ramp))
    )
    pixels = np.asarray(Image.open(io.BytesIO(result.data)), int)
    assert pixels.shape == (_HEIGHT, _WIDTH, 3)
    assert (pixels[_SUBJECT.slices] == _RED).all()
    assert np.abs(pixels[-20, :, 1].mean() - 127.5) < 3, "centred across"
    assert np.abs(pixels[:, -20, 2].mean() - 127.5) < 3, "centred down"
    # One of the two sides is shown from end to end, of the other an even part.
    factor = max(_WIDTH / size[0], _HEIGHT / size[1])
    for place, shown, whole in (
        (pixels[-20, :, 1], _WIDTH, size[0]),
        (pixels[:, -20, 2], _HEIGHT, size[1]),
    ):
        assert np.ptp(place) == pytest.approx(255 * shown / (whole * factor), abs=8)


def test_a_transparent_background_lies_on_white() -> None:
    glass = Image.new("RGBA", (50, 50), (0, 0, 0, 0))
    options = Options.from_dict({"background_sha256": _SHA, "output_format": "jpg"})
    result = remove_background(_png(_SUBJECT), options, RedModel(), background=_file(glass))
    assert np.asarray(Image.open(io.BytesIO(result.data)))[0, 0].min() > 250


@pytest.mark.parametrize(("data", "digest"), [(b"x", None), (None, _SHA), (b"no picture", _SHA)])
def test_a_background_that_cannot_be_used(data: bytes | None, digest: str | None) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        remove_background(
            _png(_SUBJECT), Options(background_sha256=digest), RedModel(), background=data
        )
    assert caught.value.field == "background_image"


def test_a_shadow_lies_below_the_subject_and_is_as_dark_as_asked_for() -> None:
    _, plain = _cut_out()
    _, faint = _cut_out(shadow="drop", shadow_opacity=20)
    result, dark = _cut_out(shadow="drop", shadow_opacity=100)
    assert result.foreground == _SUBJECT, "the shadow is not the subject"
    for pixels in (faint, dark):
        assert (pixels[_SUBJECT.slices] == plain[_SUBJECT.slices]).all()
        cast = pixels[..., 3].astype(int) - plain[..., 3]
        assert cast.min() >= 0
        assert cast[91, 110] > 20
        assert cast[91, 110] > cast[48, 110], "more below than above"
        assert cast[91:, :].sum() > cast[:50, :].sum()
        assert not pixels[(cast > 0) & (plain[..., 3] == 0)][:, :3].any(), "black"
        assert not cast[120:].any()
    assert faint[91, 110, 3] == pytest.approx(0.2 * dark[91, 110, 3], abs=1)
    _, none = _cut_out(shadow="drop", shadow_opacity=0)
    assert np.array_equal(none, plain)


def test_a_crop_leaves_room_for_the_shadow() -> None:
    result, pixels = _cut_out(crop=True, shadow="drop")
    assert result.foreground == Box(5, 2, 105, 42)
    assert (result.width, result.height) == (110, 50)
    assert max(pixels[0, :, 3].max(), pixels[-1, :, 3].max(), pixels[:, 0, 3].max()) < 8


def test_the_inputs_own_alpha_makes_the_subject_smaller() -> None:
    rows = np.array(Image.open(io.BytesIO(_png(_SUBJECT))).convert("RGBA"))
    rows[:, :100, 3] = 0
    result, pixels = _cut_out(_file(Image.fromarray(rows)), crop=True)
    assert (result.width, result.height) == (60, 40)
    assert (pixels == (*_RED, 255)).all()


def test_glass_becomes_opaque_but_holes_and_edges_stay() -> None:
    class Glass(RedModel):
        def matte(self, images: Sequence[Rgb], stages: StageHook = no_stages) -> list[Alpha]:
            (alpha,) = super().matte(images, stages)
            alpha[60:80, 80:120] = 0.4
            alpha[60:80, 130:150] = 0
            alpha[:, 59] = alpha[:, 60] * 0.5
            return [alpha]

    kept, filled = (
        np.asarray(
            Image.open(
                io.BytesIO(
                    remove_background(_png(_SUBJECT), Options(semitransparency=keep), Glass()).data
                )
            )
        )[..., 3]
        for keep in (True, False)
    )
    assert (kept[60:80, 80:120] == 102).all()
    assert (filled[60:80, 80:120] == 255).all()
    assert (filled[60:80, 130:150] == 0).all(), "a hole"
    assert (filled[55:85, 59] == 128).all(), "a soft edge"
    assert (filled >= kept).all()
