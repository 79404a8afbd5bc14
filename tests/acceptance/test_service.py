"""A photo in, a cutout out, through every process of the real service."""

import io
from pathlib import Path

import numpy as np
import psutil
import pytest
import urllib3
from PIL import Image, ImageOps
from typer.testing import CliRunner

from deploy.cli.main import app
from deploy.client import ClientError, ServiceClient
from deploy.local.service import always_ready
from tasks.jobs.job import Status
from tasks.object_store import ObjectStore, original_key, results_prefix
from tasks.runtime import Runtime
from tests.support.jobs import make_job
from tests.support.pictures import exif_orientation, picture_file
from tests.support.servers import running
from tests.support.service import RunningService, eventually, settings_of, worker_service


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


def test_a_phones_heic_is_cut_out_upright(
    service: RunningService, coffee: Path, tmp_path: Path
) -> None:
    with Image.open(coffee) as image:
        photo = image.convert("RGB").resize((150, 100))
    cutouts = []
    for number in range(1, 9):
        # As it is stored: what the orientation undoes.
        stored = ImageOps.exif_transpose(_tagged(photo, (0, 1, 2, 3, 4, 5, 8, 7, 6)[number]))
        path = tmp_path / f"{number}.heic"
        exif = exif_orientation(number).tobytes()
        path.write_bytes(picture_file(stored, "HEIC", exif=exif, quality=95))
        cutouts.append(np.asarray(_open(service.client.cut_out(path, {})), int))
    assert {each.shape for each in cutouts} == {(100, 150, 4)}
    assert all(np.abs(each - cutouts[0]).mean() < 4 for each in cutouts)
    avif = _open(service.client.cut_out(path, {"output_format": "avif"}))
    assert (avif.format, avif.size) == ("AVIF", (150, 100))
    assert np.abs(np.asarray(avif, int) - cutouts[-1])[cutouts[-1][..., 3] > 127].mean() < 6


def _tagged(photo: Image.Image, orientation: int) -> Image.Image:
    """The photo with an EXIF orientation that it does not have yet."""
    return _open(picture_file(photo, "PNG", exif=exif_orientation(orientation)))


def test_a_task_says_who_ran_it_and_how_long_each_stage_took(
    service: RunningService, coffee: Path
) -> None:
    task = service.client.wait(service.client.submit(coffee, {"cache": "false"}))
    assert task["status"] == "succeeded"
    assert task["worker"] == "gpu0@acceptance"
    assert task["attempts"] == 1
    stages = ("queue", "fetch", "decode", "preprocess", "inference", "compose", "encode", "store")
    assert {f"{stage}_ms" for stage in stages} <= set(task["timings"])
    assert task["elapsed_ms"] >= task["timings"]["inference_ms"]
    assert len(service.client.download(task["result_url"])) == task["size"]


def test_pictures_are_asked_for_by_their_headers_or_in_parts(
    service: RunningService, coffee: Path
) -> None:
    task = service.client.wait(service.client.submit(coffee, {}))
    path = f"{service.url}/api/v1/tasks/{task['task_id']}"
    cutout = service.client.download(task["result_url"])
    part = {"Range": "bytes=10-99"}

    def ask(method: str, url: str) -> tuple[int, bytes, str]:
        answer = urllib3.request(method, url, headers=part)
        return answer.status, answer.data, answer.headers.get("Content-Length", "")

    for url, whole in (
        (f"{path}/result?redirect=false", cutout),
        (f"{path}/original", coffee.read_bytes()),
    ):
        assert ask("HEAD", url) == (200, b"", str(len(whole)))
        assert ask("GET", url) == (206, whole[10:100], "90")
    # The store's signed addresses: parts too, but of GET alone.
    assert ask("HEAD", f"{path}/result") == (200, b"", str(len(cutout)))
    assert ask("GET", f"{path}/result") == (206, cutout[10:100], "90")
    assert ask("GET", task["original_url"])[:2] == (206, coffee.read_bytes()[10:100])


@pytest.mark.parametrize(
    ("method", "end"), [("POST", "/cancel"), ("DELETE", "")], ids=["cancel", "delete"]
)
def test_a_job_that_runs_is_ended_and_leaves_nothing_that_it_made(
    service: RunningService, large: Path, coffee: Path, method: str, end: str
) -> None:
    task_id = service.begin(large)
    service.client.request(method, f"/api/v1/tasks/{task_id}{end}")
    # The one model worker takes one job after the other: it has ended that one.
    service.client.cut_out(coffee, {"cache": "false"})
    objects = ObjectStore.from_settings(settings_of(service.env))
    assert list(objects.list(results_prefix(task_id))) == []
    if method == "DELETE":
        assert service.store.get(task_id) is None
        assert list(objects.list(original_key(task_id))) == []
    else:
        job = service.job(task_id)
        assert (job.status, job.result_key) == (Status.CANCELED, None)


def test_a_job_of_another_model_on_a_gpus_queue_goes_to_its_own_models_queue(
    service: RunningService,
) -> None:
    job = make_job(model="birefnet-lite", queue="gpu.acceptance.0")
    with Runtime(settings_of(service.env)) as runtime:
        runtime.dispatcher.send(runtime.job_store.create(job).job)
    own = "model.birefnet-lite"
    eventually("sent again", lambda: service.job(job.task_id).queue == own)
    waiting = service.job(job.task_id)
    assert (waiting.status, waiting.attempts) == (Status.QUEUED, 0)
    assert (waiting.crashes, waiting.losses) == (0, 0)
    service.store.erase(job.task_id)


def test_the_later_of_two_workers_of_one_name_ends_with_a_sentence(
    service: RunningService, tmp_path: Path
) -> None:
    env = {**service.env, "RMBG_LOG_LEVLE": "info"}
    later = worker_service("gpu0@acceptance", "model.u2netp", env, always_ready)
    with running(later, tmp_path / "log") as process:
        assert process.wait(60) == 1
    said = (tmp_path / "log").read_text()
    assert "a worker named gpu0@acceptance is running: give each its own name with -n" in said
    assert '"meant": "RMBG_LOG_LEVEL"' in said, "a misspelt setting is told"
    assert service.registry.workers()[0].usable


def test_the_worker_parent_loads_no_model_library(service: RunningService) -> None:
    mapped = {
        Path(each.path).name for each in psutil.Process(service.model_worker_pid).memory_maps()
    }
    assert not [
        name for name in mapped if "mnn" in name or "onnxruntime" in name or "torch" in name
    ]


def test_the_command_line_cuts_out_a_folder(
    service: RunningService, photos: list[Path], tmp_path: Path
) -> None:
    edges = ("--mask-threshold", "50", "--mask-offset", "-2")
    arguments = ("remove", str(photos[0].parent), "-o", str(tmp_path), "--url", service.url)
    done = service.run("rmbg", *arguments, *edges)
    assert done.returncode == 0, done.stderr
    cutouts = list(tmp_path.glob("*.png"))
    for each in cutouts:
        assert set(np.unique(np.asarray(_open(each.read_bytes()))[..., 3])) == {0, 255}
    assert {each.name for each in cutouts} == {f"{photo.stem}.png" for photo in photos}
    assert f"{len(photos)} of {len(photos)}" in done.stderr


def test_the_command_line_names_what_failed_and_does_the_rest(
    service: RunningService, coffee: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "words.jpg"
    bad.write_text("no picture")
    out = tmp_path / "out"
    arguments = ["remove", str(coffee), str(bad), "-o", str(out), "--url", service.url]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert "words.jpg" in done.stderr
    assert [each.name for each in out.glob("[!.]*")] == ["coffee.png"]


def test_the_command_line_without_a_service_says_so(coffee: Path, tmp_path: Path) -> None:
    arguments = ["remove", str(coffee), "-o", str(tmp_path), "--url", "http://127.0.0.1:1"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert "No answer from http://127.0.0.1:1: " in done.stderr


def test_another_server_is_recognized(coffee: Path, service: RunningService) -> None:
    with (
        ServiceClient(f"{service.url}/elsewhere") as client,
        pytest.raises(ClientError, match="No such endpoint"),
    ):
        client.submit(coffee, {})
