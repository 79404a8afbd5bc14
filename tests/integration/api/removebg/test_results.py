"""What remove.bg's API answers once a picture is worked on, checked by its pixels."""

import base64
import io
import threading
import zipfile
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from api.services import Services
from inference.layout import Box
from inference.models.base import Alpha, Rgb
from inference.probe import ImageLimits
from tasks.jobs.job import Job
from tasks.worker.runner import Runner
from tests.support.models import FakeModel
from tests.support.pictures import BLUE, RED, SUBJECT, picture_file, subject_picture
from tests.support.removebg_requests import REMOVE, error_of, file, post


@dataclass
class Worker:
    """Runs each job in the request that sends it, or later if it is busy."""

    runner: Runner
    #: Shapes of the pictures that the model looked at.
    seen: list[tuple[int, ...]]
    busy: bool = False
    sent: list[str] = field(default_factory=list)

    def send(self, job: Job) -> None:
        self.sent.append(job.task_id)
        if not self.busy:
            self.work()

    def work(self) -> None:
        while self.sent:
            self.runner.run(self.sent.pop())


@pytest.fixture
def worker(services: Services) -> Worker:
    seen: list[tuple[int, ...]] = []
    runtime = services.runtime

    def find(image: Rgb) -> Alpha:
        """The matte of a picture whose subject is red, and soft where it turns blue."""
        seen.append(image.shape[:2])
        alpha: Alpha = np.clip((image[..., 0].astype(np.float32) - image[..., 2]) / 128, 0, 1)
        return alpha

    runner = Runner(
        job_store=runtime.job_store,
        object_store=runtime.object_store,
        registry=runtime.registry,
        model=FakeModel(find=find),
        model_lock=threading.Lock(),
        limits=ImageLimits(),
        worker="gpu0@test",
        exit_child=lambda: None,
    )
    made: Any = Worker(runner, seen)
    runtime.dispatcher = made
    return made


@pytest.fixture
def client(worker: Worker, client: FlaskClient) -> FlaskClient:  # noqa: ARG001 - does the work
    return client


def _post(client: FlaskClient, image: Image.Image | None = None, **fields: str) -> TestResponse:
    return post(client, picture_file(image or subject_picture()), **fields)


def _pixels(answer: TestResponse) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.data)))


def test_the_bytes_and_the_headers(client: FlaskClient) -> None:
    answer = _post(client)
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
    assert int(answer.headers["X-RateLimit-Reset"]) >= 1.7e9
    assert "Retry-After" not in answer.headers


def test_json_where_it_is_asked_for_by_name(client: FlaskClient) -> None:
    body = {
        "image_file_b64": base64.b64encode(picture_file(subject_picture())).decode(),
        "crop": True,
    }
    named = client.post(REMOVE, json=body, headers={"Accept": "application/json"})
    assert named.status_code == 200
    data = named.get_json()["data"]
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
    assert _pixels(client.post(REMOVE, json=body, headers=anything)).shape == (40, 100, 3)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [({"type": "car"}, "car"), ({"type": "graphics"}, "graphic"), ({"type_level": "none"}, None)],
)
def test_the_type_is_the_callers(
    client: FlaskClient, parameters: dict[str, str], expected: str | None
) -> None:
    assert _post(client, **parameters).headers.get("X-Type") == expected


@pytest.mark.parametrize(
    ("picture", "subject", "most", "size", "place"),
    [
        # A view of 120 x 48, of which the subject takes 80 %, in its middle.
        ((300, 200), SUBJECT, "hd", (120, 48), Box(12, 5, 108, 43)),
        # A view of 720 x 540, shrunk to a quarter of a megapixel.
        ((900, 750), Box(90, 150, 690, 600), "preview", (577, 433), Box(58, 44, 520, 390)),
    ],
)
def test_exact_geometry(  # noqa: PLR0917 - one case
    client: FlaskClient,
    picture: tuple[int, int],
    subject: Box,
    most: str,
    size: tuple[int, int],
    place: Box,
) -> None:
    answer = _post(
        client,
        subject_picture(picture, subject),
        crop="true",
        crop_margin="10%",
        scale="80%",
        position="center",
        bg_color="fff",
        format="jpg",
        size=most,
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


def test_a_region_restricts_the_subject(client: FlaskClient, worker: Worker) -> None:
    both = subject_picture((300, 200), SUBJECT, Box(200, 100, 240, 180))
    answer = _post(client, both, roi="180px 0 100% 100%", crop="true", format="png")
    assert _pixels(answer).shape == (80, 40, 4)
    assert worker.seen == [(200, 120)]


@pytest.mark.parametrize(("size", "expected"), [("preview", (612, 408)), ("full", (1800, 1200))])
def test_sizes(client: FlaskClient, size: str, expected: tuple[int, int]) -> None:
    answer = _post(client, subject_picture((1800, 1200), Box(300, 300, 900, 700)), size=size)
    assert _pixels(answer).shape == (*expected[::-1], 4)
    assert (answer.headers["X-Max-Width"], answer.headers["X-Max-Height"]) == ("1800", "1200")


def test_a_zip_recombined_is_thepicture_file(client: FlaskClient) -> None:
    picture = subject_picture().resize((450, 300), Image.Resampling.BICUBIC)
    expected = _pixels(_post(client, picture, format="png", size="full"))
    assert ((expected[..., 3] > 0) & (expected[..., 3] < 255)).any(), "no soft edge"
    answer = _post(client, picture, format="zip", size="full")
    assert answer.headers["Content-Type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
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


def test_channels_alpha_is_gray(client: FlaskClient) -> None:
    mask = _pixels(_post(client, channels="alpha"))
    assert mask.shape == (200, 300)
    assert (mask[SUBJECT.slices] == 255).all()
    assert np.count_nonzero(mask) == SUBJECT.width * SUBJECT.height


def test_a_background_file(client: FlaskClient) -> None:
    answer = _post(client, bg_image_file=file(picture_file(Image.new("RGB", (50, 90), "lime"))))
    pixels = _pixels(answer).astype(int)
    assert answer.headers["Content-Type"] == "image/jpeg", "auto: nothing can be seen through"
    assert np.abs(pixels[0, 0] - (0, 255, 0)).max() < 5
    assert np.abs(pixels[70, 110] - RED).max() < 5


def test_a_drop_shadow(client: FlaskClient) -> None:
    plain = _pixels(_post(client))[..., 3].astype(int)
    for kind in ("drop", "car", "3D", "auto"):
        shaded = _pixels(_post(client, shadow_type=kind, shadow_opacity="80"))
        assert (shaded[..., 3] - plain)[92, 110] > 50
        assert not shaded[92, 110, :3].any()


def test_a_thousandth_of_the_pixels_is_a_subject_and_less_is_none(client: FlaskClient) -> None:
    assert error_of(_post(client, Image.new("RGB", (90, 60), BLUE))) == (400, "unknown_foreground")
    assert _post(client, subject_picture((100, 60), Box(10, 10, 13, 12))).status_code == 200


def test_a_region_beyond_the_picture_or_without_a_subject(client: FlaskClient) -> None:
    assert error_of(_post(client, roi="0 0 301px 10px")) == (400, "roi_exceeds_bounds")
    assert error_of(_post(client, roi="50% 0 100px 100%")) == (400, "roi_region_empty")


def test_a_picture_that_is_damaged_inside(client: FlaskClient) -> None:
    data = bytearray(picture_file(Image.effect_noise((90, 60), 80).convert("RGB")))
    data[300:600] = bytes(300)
    assert error_of(post(client, bytes(data))) == (400, "failed_to_read_image")


def test_a_repeat_joins_the_work_that_goes_on(client: FlaskClient, worker: Worker) -> None:
    # Trap 4: clients give up, and send the same again.
    worker.busy = True
    for _ in range(2):
        answer = _post(client)
        assert error_of(answer) == (503, "not_finished")
        assert int(answer.headers["Retry-After"]) >= 1
    worker.work()
    assert _post(client).status_code == 200
    assert len(worker.seen) == 1
