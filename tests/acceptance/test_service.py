"""A photo in, a cutout out, through every process of the real service."""

import io
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import psutil
import pytest
import urllib3
from PIL import Image, ImageDraw

from deploy.client import ClientError
from deploy.local import service as local_service
from tasks.jobs.job import Status
from tests.support.service import RunningService


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_every_photo_comes_back_cut_out(service: RunningService, photos: list[Path]) -> None:
    for photo in photos:
        cutout = _open(service.client.cut_out(photo, {}))
        assert (cutout.format, cutout.mode) == ("PNG", "RGBA"), photo.name
        with Image.open(photo) as original:
            assert cutout.size == original.size, photo.name
        pixels = np.asarray(cutout)
        alpha = pixels[..., 3]
        assert (alpha < 10).mean() > 0.1, f"{photo.name}: no background was removed"
        assert (alpha > 245).mean() > 0.1, f"{photo.name}: no subject was kept"
        assert not pixels[alpha == 0][:, :3].any(), f"{photo.name}: old background under alpha 0"


def test_a_fill_behind_the_subject(service: RunningService, coffee: Path) -> None:
    options = {"output_format": "jpg", "matte_color": "#ff0000", "quality": "95"}
    picture = _open(service.client.cut_out(coffee, options))
    assert (picture.format, picture.mode) == ("JPEG", "RGB")
    red, green, blue = picture.getpixel((2, 2))
    assert red > 240
    assert green < 15
    assert blue < 15


def test_webp(service: RunningService, coffee: Path) -> None:
    picture = _open(service.client.cut_out(coffee, {"output_format": "webp"}))
    assert (picture.format, picture.mode) == ("WEBP", "RGBA")


def test_metadata_of_the_upload_never_reaches_a_result(
    service: RunningService, coffee: Path, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    exif.get_ifd(0x8825)[1] = "N"
    tagged = tmp_path / "tagged.jpg"
    with Image.open(coffee) as photo:
        photo.save(tagged, exif=exif, comment=b"secret comment")
    for kind in ("png", "webp"):
        data = service.client.cut_out(tagged, {"output_format": kind})
        assert b"taken at home" not in data
        assert b"secret comment" not in data
        assert not dict(_open(data).getexif())


def test_a_task_tells_its_story(service: RunningService, coffee: Path) -> None:
    task = service.client.wait(service.client.submit(coffee, {"cache": "false"}))
    assert task["status"] == "succeeded"
    assert task["worker"] == "gpu0@acceptance"
    assert task["attempts"] == 1
    stages = ("queue", "fetch", "decode", "preprocess", "inference", "compose", "encode", "store")
    assert {f"{stage}_ms" for stage in stages} <= set(task["timings"])
    assert task["elapsed_ms"] >= task["timings"]["inference_ms"]
    assert len(urllib3.request("GET", task["result_url"]).data) == task["size"]


def test_damage_that_only_decoding_finds_fails_that_task_alone(
    service: RunningService, coffee: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.png"
    file = io.BytesIO()
    Image.new("RGB", (300, 200), "red").save(file, "PNG")
    whole = file.getvalue()
    # The compressed pixels are garbled, the header and the end are whole.
    start = whole.index(b"IDAT") + 8
    damaged.write_bytes(whole[:start] + b"\x00" * 20 + whole[start + 20 :])
    task = service.client.wait(service.client.submit(damaged, {}))
    assert task["status"] == "failed"
    assert task["error"]["type"] == "invalid_image"
    assert task["result_url"] is None
    service.client.cut_out(coffee, {})


def test_a_job_survives_the_death_of_the_process_that_runs_it(
    service: RunningService, tmp_path: Path
) -> None:
    # Large, so that there is time to strike while it runs.
    large = tmp_path / "large.jpg"
    picture = Image.effect_noise((4000, 3000), 80).convert("RGB")
    ImageDraw.Draw(picture).ellipse((1000, 500, 3000, 2500), fill="orange")
    picture.save(large, quality=85)
    task_id = service.client.submit(large, {})
    _await_status(service, task_id, Status.PROCESSING)
    _kill_pool_child(service.model_worker_pid)
    task = service.client.wait(task_id)
    assert task["status"] == "succeeded"
    assert task["attempts"] == 2


def _await_status(service: RunningService, task_id: str, status: Status) -> None:
    for _ in range(2000):
        job = service.store.get(task_id)
        if job is not None and job.status is status:
            return
    pytest.fail(f"{task_id} never became {status}")


def _kill_pool_child(parent: int) -> None:
    children = psutil.Process(parent).children()
    child = max(children, key=lambda each: each.memory_info().rss)
    os.kill(child.pid, signal.SIGKILL)


def test_the_worker_parent_loads_no_model_library(service: RunningService) -> None:
    mapped = {
        Path(each.path).name for each in psutil.Process(service.model_worker_pid).memory_maps()
    }
    assert not [name for name in mapped if "onnxruntime" in name or "torch" in name]


def _rmbg(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [local_service.script("rmbg"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_line_cuts_out_a_folder(
    service: RunningService, photos: list[Path], tmp_path: Path
) -> None:
    done = _rmbg("remove", str(photos[0].parent), "-o", str(tmp_path), "--url", service.url)
    assert done.returncode == 0, done.stderr
    assert {each.name for each in tmp_path.iterdir()} == {f"{photo.stem}.png" for photo in photos}
    assert f"{len(photos)} of {len(photos)}" in done.stderr


def test_the_command_line_names_what_failed_and_does_the_rest(
    service: RunningService, coffee: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "words.jpg"
    bad.write_text("no picture")
    out = tmp_path / "out"
    done = _rmbg("remove", str(coffee), str(bad), "-o", str(out), "--url", service.url)
    assert done.returncode == 1
    assert "words.jpg" in done.stderr
    assert [each.name for each in out.iterdir()] == ["coffee.png"]


def test_the_command_line_without_a_service_says_so(coffee: Path, tmp_path: Path) -> None:
    done = _rmbg("remove", str(coffee), "-o", str(tmp_path), "--url", "http://127.0.0.1:1")
    assert done.returncode == 1
    assert "is the service running" in done.stderr.replace("\n", " ")


def test_another_server_is_recognized(coffee: Path, service: RunningService) -> None:
    with pytest.raises(ClientError, match="No such endpoint"):
        type(service.client)(f"{service.url}/elsewhere").submit(coffee, {})
