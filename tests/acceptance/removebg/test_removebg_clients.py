"""remove.bg's own clients, unmodified, with nothing but the address changed."""

import base64
import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import removebg.removebg as python_client
import requests
from PIL import Image

from tests.support.paths import ROOT
from tests.support.pictures import RED, SUBJECT
from tests.support.removebg import RemoveBg

_NPM = ROOT / "tests" / "clients" / "remove-bg"
_JAVA = ROOT / "docs" / "examples" / "RemoveBackground.java"


def _check(data: bytes) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    assert pixels.shape == (200, 300, 4)
    assert (pixels[SUBJECT.slices] == (*RED, 255)).all()
    assert np.count_nonzero(pixels[..., 3]) == SUBJECT.width * SUBJECT.height


@pytest.fixture
def client(
    removebg: RemoveBg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> python_client.RemoveBg:
    monkeypatch.setattr(python_client, "API_ENDPOINT", f"{removebg.url}/v1.0/removebg")
    monkeypatch.chdir(tmp_path)
    return python_client.RemoveBg("KEY", str(tmp_path / "error.log"))


def test_the_python_client_with_a_file(client: python_client.RemoveBg, subject_file: Path) -> None:
    client.remove_background_from_img_file(str(subject_file))
    _check(Path(f"{subject_file}_no_bg.png").read_bytes())


def test_the_python_client_with_base64(
    client: python_client.RemoveBg, subject_file: Path, tmp_path: Path
) -> None:
    text = base64.b64encode(subject_file.read_bytes())
    client.remove_background_from_base64_img(text)
    _check((tmp_path / "no-bg.png").read_bytes())
    client.remove_background_from_base64_img(
        text, size="hd", bg_color="lime", new_file_name="a.jpg"
    )
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "JPEG"


def test_the_python_client_with_an_address(
    client: python_client.RemoveBg, subject_url: str, tmp_path: Path
) -> None:
    client.remove_background_from_img_url(subject_url)
    _check((tmp_path / "no-bg.png").read_bytes())


def _npm(address: str, function: str, /, **options: object) -> dict[str, Any]:
    if shutil.which("node") is None or not (_NPM / "node_modules").is_dir():
        pytest.skip("no npm client here: `make clients` fetches it where npm is")
    call = ["node", "--no-deprecation", "removebg.js", address, function, json.dumps(options)]
    done = subprocess.run(call, cwd=_NPM, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_the_npm_client_with_a_file(removebg: RemoveBg, subject_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    answer = _npm(
        removebg.url,
        "removeBackgroundFromImageFile",
        path=str(subject_file),
        apiKey="KEY",
        outputFile=str(out),
    )["resolved"]
    _check(out.read_bytes())
    assert (answer["resultWidth"], answer["resultHeight"]) == ("300", "200")
    assert float(answer["creditsCharged"]) == 0
    assert int(answer["rateLimitRemaining"]) <= int(answer["rateLimit"])


def test_the_npm_client_with_base64(removebg: RemoveBg, subject_file: Path, tmp_path: Path) -> None:
    out, text = tmp_path / "out.png", base64.b64encode(subject_file.read_bytes()).decode()
    _npm(
        removebg.url,
        "removeBackgroundFromImageBase64",
        base64img=text,
        apiKey="KEY",
        size="regular",
        type="person",
        crop=True,
        crop_margin="10px",
        outputFile=str(out),
    )
    with Image.open(out) as image:
        assert image.size == (120, 60)


def test_the_npm_client_with_an_address(
    removebg: RemoveBg, subject_url: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.png"
    call = {"url": subject_url, "apiKey": "KEY", "outputFile": str(out)}
    _npm(removebg.url, "removeBackgroundFromImageUrl", **call)
    _check(out.read_bytes())
    with_background = {**call, "bg_image_url": subject_url, "size": "full"}
    _npm(removebg.url, "removeBackgroundFromImageUrl", **with_background)
    with Image.open(out) as image:
        assert (image.format, image.size) == ("JPEG", (300, 200))


def test_the_npm_client_hears_of_errors(removebg: RemoveBg, subject_file: Path) -> None:
    answer = _npm(
        removebg.url,
        "removeBackgroundFromImageFile",
        path=str(subject_file),
        apiKey="KEY",
        size="huge",
    )
    assert answer["rejected"][0]["code"] == "invalid_size"


@pytest.mark.parametrize(
    "arguments",
    [
        ["-F", "image_file=@{file}", "-F", "size=auto"],
        ["-F", "image_file=@{file}"],
        ["-F", "image_file=@{file}", "-F", "size=preview", "-F", "type=auto", "-F", "roi="],
        ["-F", "image_file_b64=<{text}", "-F", "size=auto"],
        ["-F", "image_url={url}", "-F", "size=auto"],
        ["-d", "image_url={url}", "-d", "size=auto"],
        ["--data-urlencode", "image_file_b64@{text}", "-d", "size=full", "-d", "format=png"],
    ],
    ids=str,
)
def test_curl(
    removebg: RemoveBg, subject_file: Path, subject_url: str, tmp_path: Path, arguments: list[str]
) -> None:
    text, out = tmp_path / "text", tmp_path / "no-bg.png"
    text.write_bytes(base64.b64encode(subject_file.read_bytes()))
    filled = [each.format(file=subject_file, text=text, url=subject_url) for each in arguments]
    call = ["curl", "-sSf", "-H", "X-Api-Key: INSERT_YOUR_API_KEY_HERE", *filled]
    subprocess.run([*call, f"{removebg.url}/v1.0/removebg", "-o", str(out)], check=True, timeout=60)
    _check(out.read_bytes())


def test_pythons_requests(removebg: RemoveBg, subject_file: Path) -> None:
    with subject_file.open("rb") as file:
        response = requests.post(
            f"{removebg.url}/v1.0/removebg",
            files={"image_file": file},
            data={"size": "auto"},
            headers={"X-Api-Key": "INSERT_YOUR_API_KEY_HERE"},
            timeout=60,
        )
    assert response.status_code == requests.codes.ok
    _check(response.content)


def test_javas_own_client(removebg: RemoveBg, subject_file: Path, tmp_path: Path) -> None:
    if shutil.which("javac") is None:
        pytest.skip("no JDK here")
    # One file is compiled and run at once (JEP 330).
    out = tmp_path / "out.png"
    call = ["java", str(_JAVA), removebg.url, str(subject_file), str(out)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=90, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "300"), done.stderr
    _check(out.read_bytes())
