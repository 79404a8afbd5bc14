"""remove.bg's own clients, unmodified, with nothing but the address changed."""

import base64
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import removebg.removebg as python_client
import requests
from PIL import Image

from tests.support.paths import DATA, ROOT
from tests.support.programs import run_program
from tests.support.service import RunningService
from tests.support.websites import website

_NPM = ROOT / "tests" / "clients" / "remove-bg"
_JAVA = ROOT / "docs" / "examples" / "RemoveBackground.java"


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "coffee.jpg"
    with Image.open(DATA / "coffee.jpg") as picture:
        picture.resize((300, 200)).save(path)
    return path


@pytest.fixture(scope="module")
def photo_url(photo: Path) -> Iterator[str]:
    with website({"/coffee.jpg": photo.read_bytes()}) as url:
        yield f"{url}/coffee.jpg"


@pytest.fixture(scope="module")
def answer(service: RunningService, photo: Path) -> requests.Response:
    """The cutout that every client has to receive, as Python's requests gets it."""
    answer = requests.post(
        f"{service.url}/v1.0/removebg",
        files={"image_file": photo.read_bytes()},
        data={"size": "auto"},
        headers={"X-Api-Key": "INSERT_YOUR_API_KEY_HERE"},
        timeout=60,
    )
    assert answer.status_code == requests.codes.ok, answer.text
    alpha = _pixels(answer.content)[..., 3]
    assert alpha.shape == (200, 300)
    assert (alpha < 10).mean() > 0.1
    assert (alpha > 245).mean() > 0.1
    return answer


def _pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def _check(data: bytes, answer: requests.Response) -> None:
    np.testing.assert_array_equal(_pixels(data), _pixels(answer.content))


@pytest.fixture
def client(
    service: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> python_client.RemoveBg:
    monkeypatch.setattr(python_client, "API_ENDPOINT", f"{service.url}/v1.0/removebg")
    monkeypatch.chdir(tmp_path)
    return python_client.RemoveBg("KEY", str(tmp_path / "error.log"))


def test_the_python_client(
    client: python_client.RemoveBg,
    photo: Path,
    photo_url: str,
    tmp_path: Path,
    answer: requests.Response,
) -> None:
    text = base64.b64encode(photo.read_bytes())
    client.remove_background_from_img_file(str(photo))
    client.remove_background_from_base64_img(text, new_file_name="base64.png")
    client.remove_background_from_img_url(photo_url, new_file_name="url.png")
    for path in (Path(f"{photo}_no_bg.png"), tmp_path / "base64.png", tmp_path / "url.png"):
        _check(path.read_bytes(), answer)
    client.remove_background_from_base64_img(
        text, size="hd", bg_color="lime", new_file_name="a.jpg"
    )
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "JPEG"


def _npm(service: RunningService, source: str, /, **options: object) -> dict[str, Any]:
    if shutil.which("node") is None or not (_NPM / "node_modules").is_dir():
        pytest.skip("no npm client here: `make clients` fetches it where npm is")
    call = ("node", "--no-deprecation", "removebg.js", service.url)
    given = json.dumps({"apiKey": "KEY", **options})
    done = run_program(*call, f"removeBackgroundFromImage{source}", given, cwd=_NPM)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_the_npm_client(
    service: RunningService, photo: Path, photo_url: str, tmp_path: Path, answer: requests.Response
) -> None:
    out = tmp_path / "out.png"
    found = _npm(service, "File", path=str(photo), outputFile=str(out))["resolved"]
    _check(out.read_bytes(), answer)
    assert (found["resultWidth"], found["resultHeight"]) == ("300", "200")
    assert float(found["creditsCharged"]) == 0
    assert int(found["rateLimitRemaining"]) <= int(found["rateLimit"])

    text = base64.b64encode(photo.read_bytes()).decode()
    crop = {"size": "regular", "type": "person", "crop": True, "crop_margin": "10px"}
    _npm(service, "Base64", base64img=text, outputFile=str(out), **crop)
    width, height = (int(answer.headers[f"X-Foreground-{side}"]) for side in ("Width", "Height"))
    with Image.open(out) as image:
        assert image.size == (width + 20, height + 20)

    _npm(service, "Url", url=photo_url, outputFile=str(out), bg_image_url=photo_url, size="full")
    with Image.open(out) as image:
        assert (image.format, image.size) == ("JPEG", (300, 200))

    (refused,) = _npm(service, "File", path=str(photo), size="huge")["rejected"]
    assert refused["code"] == "invalid_size"


@pytest.mark.parametrize(
    "arguments",
    [
        ["-F", "image_file=@{file}", "-F", "size=preview", "-F", "type=auto", "-F", "roi="],
        ["-F", "image_file_b64=<{text}", "-F", "size=auto"],
        ["-d", "image_url={url}", "-d", "size=auto"],
        ["--data-urlencode", "image_file_b64@{text}", "-d", "size=full", "-d", "format=png"],
    ],
    ids=str,
)
def test_curl(  # noqa: PLR0917 - fixtures
    service: RunningService,
    photo: Path,
    photo_url: str,
    tmp_path: Path,
    arguments: list[str],
    answer: requests.Response,
) -> None:
    text, out = tmp_path / "text", tmp_path / "no-bg.png"
    text.write_bytes(base64.b64encode(photo.read_bytes()))
    filled = [each.format(file=photo, text=text, url=photo_url) for each in arguments]
    call = ["curl", "-sSf", "-H", "X-Api-Key: INSERT_YOUR_API_KEY_HERE", *filled]
    done = run_program(*call, f"{service.url}/v1.0/removebg", "-o", out)
    assert done.returncode == 0, done.stderr
    _check(out.read_bytes(), answer)


def test_javas_own_client(
    service: RunningService, photo: Path, tmp_path: Path, answer: requests.Response
) -> None:
    if shutil.which("javac") is None:
        pytest.skip("no JDK here")
    # One file is compiled and run at once (JEP 330).
    out = tmp_path / "out.png"
    done = run_program("java", _JAVA, service.url, photo, out)
    assert (done.returncode, done.stdout.strip()) == (0, "300"), done.stderr
    _check(out.read_bytes(), answer)
