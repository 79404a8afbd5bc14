"""Batches through the real service: what fails alone, what memory they take, who overtakes them."""

import io
import random
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from deploy.client import ServiceClient, submit_batch
from tests.support.service import RunningApi, RunningService, eventually

MB = 2**20


def _batch(service: RunningService, batch_id: str) -> dict[str, Any]:
    return service.client.request("GET", f"/api/v1/batches/{batch_id}")


def _varied(photos: list[Path], folder: Path, count: int, side: int) -> list[Path]:
    """Real photos, each a part of its own of one, so that no two are equal."""
    rng = random.Random(count)
    made = []
    for number in range(count):
        source = photos[number % len(photos)]
        with Image.open(source) as photo:
            width, height = photo.size
            left, top = rng.randrange(width // 8), rng.randrange(height // 8)
            part = photo.crop((left, top, width - width // 8, height - height // 8))
            part.thumbnail((side, side))
            target = folder / f"{source.stem}-{number}.jpg"
            part.save(target, quality=90)
        made.append(target)
    return made


@pytest.mark.parametrize("count", [6, pytest.param(57, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_bad_pictures_fail_alone_and_the_archive_holds_the_rest(
    service: RunningService, photos: list[Path], garbled: Path, tmp_path: Path, count: int
) -> None:
    words, cut = tmp_path / "words.jpg", tmp_path / "cut.jpg"
    words.write_text("no picture")
    cut.write_bytes(photos[0].read_bytes()[:100])
    good = _varied(photos, tmp_path, count, 300)
    sent = [good[0], words, cut, garbled, *good[1:]]
    batch_id = submit_batch(service.client, sent, {})["batch_id"]
    eventually(
        "the batch is completed",
        lambda: _batch(service, batch_id)["status"] == "completed",
        seconds=240,
    )
    batch = _batch(service, batch_id)
    assert (batch["counts"]["succeeded"], batch["counts"]["failed"]) == (count, 3)
    failed = {item["name"]: item["error"] for item in batch["items"] if item["error"]}
    assert set(failed) == {words.name, cut.name, garbled.name}
    for reason in failed.values():
        assert reason["type"] in {"invalid_image", "unsupported_format"}
        assert reason["message"]
    data = service.client.download(f"{service.url}/api/v1/batches/{batch_id}/archive")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"{path.stem}.png" for path in good]
        with Image.open(io.BytesIO(archive.read(archive.namelist()[-1]))) as cutout:
            assert cutout.mode == "RGBA"


@contextmanager
def _watched(pid: int) -> Iterator[list[int]]:
    """What a process and its children take while the block runs, sampled, in bytes."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children()]
    samples = [sum(each.memory_info().rss for each in processes)]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            samples.append(sum(each.memory_info().rss for each in processes))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def _large(folder: Path, count: int, size: int) -> list[Path]:
    """Pictures of so many bytes, no two equal: noise behind a real header and body."""
    file = io.BytesIO()
    Image.new("RGB", (800, 600), "teal").save(file, "JPEG")
    head = file.getvalue()
    paths = [folder / f"large-{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(head + random.Random(number).randbytes(size - len(head)))
    return paths


@pytest.mark.parametrize("count", [12, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_a_batch_of_large_pictures_does_not_stand_in_memory(
    lone_api: RunningApi, tmp_path: Path, count: int
) -> None:
    with ServiceClient(lone_api.url) as client:
        # What is imported and connected at the first use is no part of it.
        submit_batch(client, _large(tmp_path, 1, MB), {})
        photos = _large(tmp_path, count, 10 * MB)
        with _watched(lone_api.pid) as samples:
            batch = submit_batch(client, photos, {})
        client.request("DELETE", f"/api/v1/batches/{batch['batch_id']}")
    assert batch["counts"]["queued"] == count
    rise = (max(samples) - samples[0]) / MB
    assert rise < 60, f"{rise:.0f} MB for {count} pictures of 10 MB"


@pytest.mark.parametrize("count", [12, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_a_single_upload_overtakes_a_running_batch(
    service: RunningService, photos: list[Path], tmp_path: Path, count: int
) -> None:
    single = tmp_path / "single.jpg"
    # 9 MB: what follows the end of a picture is no part of it.
    single.write_bytes(photos[0].read_bytes().ljust(9 * MB, b"\0"))
    sent = _varied(photos, tmp_path, count, 400)
    batch_id = submit_batch(service.client, sent, {"cache": "false"})["batch_id"]
    eventually("one has succeeded", lambda: _batch(service, batch_id)["counts"]["succeeded"])
    task_id = service.client.submit(single, {"cache": "false"})
    done_before = _batch(service, batch_id)["counts"]["succeeded"]
    assert service.client.wait(task_id)["status"] == "succeeded"
    jobs = [service.job(item["task_id"]) for item in _batch(service, batch_id)["items"]]
    ended = service.job(task_id).finished_at
    assert ended is not None
    # Counted in jobs that ended before it did, the one that was running among them.
    overtook_it = [job for job in jobs if job.finished_at and job.finished_at <= ended]
    assert len(overtook_it) - done_before <= 3
    service.client.request("DELETE", f"/api/v1/batches/{batch_id}")
