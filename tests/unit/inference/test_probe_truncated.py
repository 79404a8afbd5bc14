from collections.abc import Callable

import pytest
from PIL import Image

from inference.errors import InvalidImageError
from inference.probe import probe_image

Encode = Callable[..., bytes]

ENDS_EARLY = "The file ends before the picture does"
#: What cameras, phones and editors append, or what a transfer pads with.
TRAILERS = [b"\0", b"\0" * 50_000, b"\r\n", b"MotionPhoto_Data" + bytes(range(256)) * 40]


@pytest.mark.parametrize("trailer", TRAILERS, ids=["zero", "zeros", "newline", "video"])
@pytest.mark.parametrize(
    ("name", "parameters"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {})],
)
def test_bytes_after_the_picture_are_nobodys_business(
    name: str, parameters: dict[str, object], trailer: bytes, photo: Image.Image, encode_as: Encode
) -> None:
    assert probe_image(encode_as(photo, name, **parameters) + trailer).width == 96


@pytest.mark.parametrize("kept", [0.99, 0.9, 0.75])
@pytest.mark.parametrize(
    ("name", "parameters"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {})],
)
def test_a_missing_end_is_found(
    name: str, parameters: dict[str, object], kept: float, photo: Image.Image, encode_as: Encode
) -> None:
    data = encode_as(photo, name, **parameters)
    with pytest.raises(InvalidImageError, match=ENDS_EARLY):
        probe_image(data[: int(len(data) * kept)])


def test_the_end_of_an_embedded_thumbnail_is_not_the_pictures(
    photo: Image.Image, encode_as: Encode
) -> None:
    thumbnail = encode_as(photo.resize((48, 32)), "JPEG")
    whole = encode_as(photo, "JPEG", comment=thumbnail)
    assert thumbnail in whole
    assert probe_image(whole).width == 96
    with pytest.raises(InvalidImageError, match=ENDS_EARLY):
        probe_image(whole[:-20])


def test_an_end_marker_that_straddles_two_reads_is_found(
    photo: Image.Image, encode_as: Encode
) -> None:
    data = encode_as(photo, "JPEG")
    for pad in range((1 << 18) - 4, (1 << 18) + 4):
        assert probe_image(data + bytes(pad)).width == 96


def test_fill_bytes_between_segments_are_passed_over(photo: Image.Image, encode_as: Encode) -> None:
    data = encode_as(photo, "JPEG")
    assert probe_image(data[:2] + b"\xff\xff" + data[2:]).width == 96


def test_a_jpeg_cut_before_its_first_scan(photo: Image.Image, encode_as: Encode) -> None:
    data = encode_as(photo, "JPEG")
    with pytest.raises(InvalidImageError):
        probe_image(data[: data.index(b"\xff\xda") + 2])


def test_a_webp_that_lacks_its_padding_byte_passes(encode_as: Encode) -> None:
    sizes = range(8, 40)
    files = [encode_as(Image.radial_gradient("L").resize((n, n)), "WEBP") for n in sizes]
    padded = [data for data in files if data.endswith(b"\0")]
    assert padded, f"none of {len(files)} files ends in a zero"
    assert all(probe_image(data[:-1]) for data in padded)
