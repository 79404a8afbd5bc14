"""A WebP's first picture is read, whatever the chunks around it are."""

import struct

import numpy as np
import pytest
from PIL import Image

from inference.decode import decode
from inference.errors import ImageTooComplexError, InvalidImageError
from inference.probe import ImageHeader, probe_image
from inference.webp import MAX_CHUNKS
from tests.support.icc_profiles import BLUE, GREEN, RED, rgb_profile
from tests.support.pictures import exif_orientation, picture_file

Chunks = list[tuple[bytes, bytes]]


def _chunks(data: bytes) -> Chunks:
    found, at = [], 12
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        found.append((kind, data[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    return found


def _webp(chunks: Chunks, size: int | None = None, *, padded: bool = True) -> bytes:
    body = b"".join(
        kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2 * padded)
        for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body) if size is None else size) + b"WEBP" + body


@pytest.fixture(params=["lossy", "lossless", "lossy alpha", "lossless alpha", "animated"])
def chunks(request: pytest.FixtureRequest, photo: Image.Image) -> Chunks:
    image = photo.copy()
    if "alpha" in request.param:
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    more = {"lossless": "lossless" in request.param}
    if request.param == "animated":
        more |= {"save_all": True, "append_images": [photo.rotate(180)]}
    return _chunks(picture_file(image, "WEBP", **more))


def test_chunks_that_are_no_picture_decide_nothing(chunks: Chunks) -> None:
    assert probe_image(_webp(chunks)) == ImageHeader("WEBP", 96, 64)
    whole = decode(_webp(chunks))
    odd = [
        (b"EXIF", b"Exif\0\0II*\0\xff"),
        (b"ICCP", b"no profile"),
        (b"XMP ", b"<"),
        (b"\1?A\0", b""),
    ]
    for data in (
        _webp([*odd, *chunks]),
        _webp([*chunks[:1], *odd, *chunks[1:], *odd]),
        _webp([*odd[:3], *chunks], padded=False),
        *(_webp(chunks, size) for size in (0, 12, 1 << 31)),
        _webp(chunks) + bytes(20_000),
        _webp(chunks) + b"RIFF" * 9,
        _webp([*chunks, (b"EXIF", b"")])[:-4] + b"\xff\xff\0\0",
    ):
        picture = decode(data)
        assert np.array_equal(picture.rgb, whole.rgb)
        assert (picture.alpha is None) is (whole.alpha is None)
        assert whole.alpha is None or np.array_equal(picture.alpha, whole.alpha)


def test_missing_data_are_refused_at_their_place(chunks: Chunks) -> None:
    data = _webp(chunks)
    first = next(at for at, (kind, _) in enumerate(chunks) if kind in {b"VP8 ", b"VP8L", b"ANMF"})
    end = len(_webp(chunks[: first + 1]))
    with pytest.raises(InvalidImageError, match="ends before the picture does"):
        probe_image(data[: end - 4])
    kind, body = chunks[first]
    # The sizes are right, but the data end early.
    with pytest.raises(InvalidImageError):
        decode(_webp([*chunks[:first], (kind, body[: len(body) // 2]), *chunks[first + 1 :]]))


def test_metadata_of_a_webp_are_applied_wherever_they_stand(photo: Image.Image) -> None:
    chunks = _chunks(picture_file(photo, "WEBP", lossless=True))
    exif = (b"EXIF", exif_orientation(3).tobytes())
    profile = (b"ICCP", rgb_profile(BLUE, GREEN, RED))
    for order in ([profile, *chunks, exif], [exif, profile, *chunks]):
        turned = decode(_webp(order)).rgb.astype(int)
        assert np.abs(turned - np.asarray(photo.rotate(180))[..., ::-1]).mean() < 4


def test_chunks_without_end_are_refused_after_a_bounded_number() -> None:
    with pytest.raises(ImageTooComplexError, match=f"more than {MAX_CHUNKS} chunks"):
        probe_image(_webp([(b"XMP ", b"")] * (MAX_CHUNKS + 1)))
