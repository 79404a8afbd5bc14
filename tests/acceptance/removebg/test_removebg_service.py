"""remove.bg's API through the running service, checked by the pixels that come back."""

import base64
import io
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import requests
from PIL import Image

from api.rate_limits import Rate, take_tokens
from inference.layout import Box
from tests.support.pictures import BLUE, RED, SUBJECT, picture_file, subject_picture
from tests.support.removebg import RATE, RemoveBg
from tests.support.subject_worker import SLOW

_SECONDS = 60


def _post(
    url: str, image: Image.Image | bytes | None = None, **fields: object
) -> requests.Response:
    data = image if isinstance(image, bytes) else picture_file(image or subject_picture())
    return requests.post(
        f"{url}/v1.0/removebg", files={"image_file": data}, data=fields, timeout=_SECONDS
    )


def _pixels(answer: requests.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def test_the_bytes_and_the_headers(removebg: RemoveBg) -> None:
    answer = _post(removebg.url)
    pixels = _pixels(answer)
    assert answer.headers["Content-Type"] == "image/png"
    assert pixels.shape == (200, 300, 4)
    assert (pixels[SUBJECT.slices] == (*RED, 255)).all()
    assert not pixels[pixels[..., 3] == 0].any(), "RGB is 0,0,0 wherever alpha is 0"
    expected = {
        "X-Type": "other",
        "X-Width": "300",
        "X-Height": "200",
        "X-Max-Width": "300",
        "X-Max-Height": "200",
        "X-Foreground-Top": "50",
        "X-Foreground-Left": "60",
        "X-Foreground-Width": "100",
        "X-Foreground-Height": "40",
        "X-RateLimit-Limit": "500",
        "Access-Control-Allow-Origin": "*",
    }
    assert {name: answer.headers.get(name) for name in expected} == expected
    assert float(answer.headers["X-Credits-Charged"]) == 0
    assert 0 <= int(answer.headers["X-RateLimit-Remaining"]) < 500
    assert int(answer.headers["X-RateLimit-Reset"]) >= int(time.time())
    assert "Retry-After" not in answer.headers


def test_json_where_it_is_asked_for_by_name(removebg: RemoveBg) -> None:
    body = {
        "image_file_b64": base64.b64encode(picture_file(subject_picture())).decode(),
        "crop": True,
    }
    address = f"{removebg.url}/v1.0/removebg"
    named = requests.post(
        address, json=body, headers={"Accept": "application/json"}, timeout=_SECONDS
    )
    assert named.status_code == 200
    data = named.json()["data"]
    result = Image.open(io.BytesIO(base64.b64decode(data.pop("result_b64"))))
    assert result.size == (100, 40)
    assert data == {
        "foreground_top": 0,
        "foreground_left": 0,
        "foreground_width": 100,
        "foreground_height": 40,
    }
    # As axios sends it, which writes the bytes to a file.
    anything = {"Accept": "application/json, text/plain, */*"}
    plain = requests.post(address, json=body, headers=anything, timeout=_SECONDS)
    assert _pixels(plain).shape == (40, 100, 3)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [({"type": "car"}, "car"), ({"type": "graphics"}, "graphic"), ({"type_level": "none"}, None)],
)
def test_the_type_is_the_callers(
    removebg: RemoveBg, parameters: dict[str, str], expected: str | None
) -> None:
    assert _post(removebg.url, **parameters).headers.get("X-Type") == expected


@pytest.mark.parametrize(
    ("picture", "subject", "size", "place"),
    [
        # A view of 120 x 48, of which the subject takes 80 %, in its middle.
        ((300, 200), SUBJECT, (120, 48), Box(12, 5, 108, 43)),
        # A view of 2400 x 1800, shrunk to 4 megapixels.
        ((3000, 2500), Box(300, 500, 2300, 2000), (2309, 1732), Box(231, 174, 2078, 1559)),
    ],
)
def test_exact_geometry(
    removebg: RemoveBg,
    picture: tuple[int, int],
    subject: Box,
    size: tuple[int, int],
    place: Box,
) -> None:
    answer = _post(
        removebg.url,
        subject_picture(picture, subject),
        crop="true",
        crop_margin="10%",
        scale="80%",
        position="center",
        bg_color="fff",
        format="jpg",
        size="hd",
    )
    pixels = _pixels(answer).astype(int)
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert pixels.shape == (size[1], size[0], 3)
    assert answer.headers["X-Foreground-Left"] == str(place.left)
    assert answer.headers["X-Foreground-Width"] == str(place.width)
    red = np.abs(pixels - RED).max(axis=2) < 60
    white = pixels.min(axis=2) > 195
    expected = np.zeros(red.shape, bool)
    expected[place.slices] = True
    assert (red == expected).all()
    assert (white == ~expected).all()
    inner = (slice(place.top + 9, place.bottom - 9), slice(place.left + 9, place.right - 9))
    assert np.abs(pixels[inner] - RED).max() <= 4


def test_a_region_restricts_the_subject(removebg: RemoveBg) -> None:
    both = subject_picture((300, 200), SUBJECT, Box(200, 100, 240, 180))
    answer = _post(removebg.url, both, roi="180px 0 100% 100%", crop="true", format="png")
    assert _pixels(answer).shape == (80, 40, 4)
    assert removebg.seen()[-1] == "120x200"


@pytest.mark.parametrize(("size", "expected"), [("preview", (612, 408)), ("full", (1800, 1200))])
def test_sizes(removebg: RemoveBg, size: str, expected: tuple[int, int]) -> None:
    picture = subject_picture((1800, 1200), Box(300, 300, 900, 700))
    answer = _post(removebg.url, picture, size=size)
    assert _pixels(answer).shape == (*expected[::-1], 4)
    assert (answer.headers["X-Max-Width"], answer.headers["X-Max-Height"]) == ("1800", "1200")


def test_a_zip_recombined_is_thepicture_file(removebg: RemoveBg) -> None:
    picture = subject_picture((300, 200)).resize((450, 300), Image.Resampling.BICUBIC)
    expected = _pixels(_post(removebg.url, picture, format="png", size="full"))
    soft = (expected[..., 3] > 0) & (expected[..., 3] < 255)
    assert soft.any()
    answer = _post(removebg.url, picture, format="zip", size="full")
    assert answer.headers["Content-Type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        entries = archive.infolist()
        assert [each.filename for each in entries] == ["color.jpg", "alpha.png"]
        assert [each.compress_type for each in entries] == [zipfile.ZIP_STORED] * 2
        color, alpha = (Image.open(archive.open(each)) for each in entries)
        assert (color.mode, alpha.mode) == ("RGB", "L")
        colors, opacity = np.asarray(color, int), np.asarray(alpha)
    assert np.array_equal(opacity, expected[..., 3])
    error = np.abs(colors - expected[..., :3])[opacity > 0]
    assert error.mean() < 3
    assert error.max() < 40
    assert np.abs(colors[0, 0] - BLUE).max() < 6, "the old background is kept in color.jpg"


def test_channels_alpha_is_gray(removebg: RemoveBg) -> None:
    mask = _pixels(_post(removebg.url, channels="alpha"))
    assert mask.shape == (200, 300)
    assert (mask[SUBJECT.slices] == 255).all()
    assert np.count_nonzero(mask) == SUBJECT.width * SUBJECT.height


def test_a_background_file(removebg: RemoveBg) -> None:
    answer = requests.post(
        f"{removebg.url}/v1.0/removebg",
        files={
            "image_file": picture_file(subject_picture()),
            "bg_image_file": picture_file(Image.new("RGB", (50, 90), "lime")),
        },
        timeout=_SECONDS,
    )
    pixels = _pixels(answer).astype(int)
    assert answer.headers["Content-Type"] == "image/jpeg", "auto: nothing can be seen through"
    assert np.abs(pixels[0, 0] - (0, 255, 0)).max() < 5
    assert np.abs(pixels[70, 110] - RED).max() < 5


def test_a_drop_shadow(removebg: RemoveBg) -> None:
    plain = _pixels(_post(removebg.url))[..., 3].astype(int)
    for kind in ("drop", "car", "3D", "auto"):
        shaded = _pixels(_post(removebg.url, shadow_type=kind, shadow_opacity=80))
        assert (shaded[..., 3] - plain)[92, 110] > 50
        assert not shaded[92, 110, :3].any()


def test_nothing_to_be_seen_is_said(removebg: RemoveBg) -> None:
    answer = _post(removebg.url, Image.new("RGB", (90, 60), BLUE))
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["code"] == "unknown_foreground"
    # One pixel in a thousand is enough.
    small = subject_picture((100, 60), Box(10, 10, 13, 12))
    assert _post(removebg.url, small).status_code == 200


def test_a_region_beyond_the_picture(removebg: RemoveBg) -> None:
    answer = _post(removebg.url, roi="0 0 301px 10px")
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, "roi_exceeds_bounds")
    empty = _post(removebg.url, roi="50% 0 100px 100%")
    assert (empty.status_code, empty.json()["errors"][0]["code"]) == (400, "roi_region_empty")


def test_a_picture_that_is_damaged_inside(removebg: RemoveBg) -> None:
    data = bytearray(picture_file(Image.effect_noise((90, 60), 80).convert("RGB")))
    data[300:600] = bytes(300)
    answer = _post(removebg.url, bytes(data))
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (
        400,
        "failed_to_read_image",
    )


def test_a_repeat_joins_the_work_that_goes_on(removebg: RemoveBg) -> None:
    # Trap 4: clients give up, and send the same again.
    picture = subject_picture((301, 207))
    picture.putpixel((0, 0), SLOW)
    before = removebg.seen().count("301x207")
    answers = [_post(removebg.hasty_url, picture)]
    while answers[-1].status_code == 503 and len(answers) < 9:
        time.sleep(int(answers[-1].headers["Retry-After"]))
        answers.append(_post(removebg.hasty_url, picture))
    assert answers[0].status_code == 503
    assert answers[0].json()["errors"][0]["title"]
    assert {answer.status_code for answer in answers} == {503, 200}
    assert removebg.seen().count("301x207") == before + 1, "the model looked at it once"


def test_five_clients_over_the_rate_finish_by_obeying(removebg: RemoveBg) -> None:
    # Trap 5: without a whole number in Retry-After they would never stop.
    bucket = partial(take_tokens, removebg.redis, "", Rate(RATE, 60), policy="megapixels")
    bucket(cost=max(0, int(bucket(cost=0).left) - 1))

    def client(number: int) -> list[int]:
        statuses = []
        picture = subject_picture((90 + number, 60), Box(20, 20, 40, 40))
        while not statuses or statuses[-1] != 200:
            answer = _post(removebg.hasty_url, picture, format="zip")
            statuses.append(answer.status_code)
            if answer.status_code != 200:
                assert answer.headers["Retry-After"].isdigit()
                assert int(answer.headers["Retry-After"]) >= 1
                time.sleep(int(answer.headers["Retry-After"]))
        return statuses

    with ThreadPoolExecutor(5) as pool:
        runs = list(pool.map(client, range(5)))
    assert any(429 in statuses for statuses in runs)
    assert all(statuses[-1] == 200 for statuses in runs)
