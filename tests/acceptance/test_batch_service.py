"""Batches through the real service: what fails alone, what is fetched, what memory it takes."""

import io
import random
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import urllib3
from PIL import Image

from deploy.client import ServiceClient, submit_batch
from deploy.local import probes
from deploy.local.ports import reserved_ports
from tests.support.servers import Servers, running
from tests.support.service import RunningService, api_service

MB = 2**20
WAIT_SECONDS = 240


def _wait(client: ServiceClient, batch_id: str, seconds: float = WAIT_SECONDS) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while True:
        batch = client.request("GET", f"/api/v1/batches/{batch_id}")
        if batch["status"] == "completed":
            return batch
        assert time.monotonic() < deadline, batch["counts"]
        time.sleep(0.2)


def _varied(photos: list[Path], folder: Path, count: int, side: int) -> list[Path]:
    """Real photos, each a part of its own of one, so that no two are equal."""
    rng = random.Random(count)
    made = []
    for number in range(count):
        with Image.open(photos[number % len(photos)]) as photo:
            width, height = photo.size
            left, top = rng.randrange(width // 8), rng.randrange(height // 8)
            part = photo.crop((left, top, width - width // 8, height - height // 8))
            part.thumbnail((side, side))
            target = folder / f"{photos[number % len(photos)].stem}-{number}.jpg"
            part.save(target, quality=90)
        made.append(target)
    return made


def _broken(photo: Path, folder: Path) -> list[Path]:
    words, cut, garbled = (folder / name for name in ("words.jpg", "cut.jpg", "garbled.png"))
    words.write_text("no picture")
    cut.write_bytes(photo.read_bytes()[:100])
    file = io.BytesIO()
    Image.new("RGB", (300, 200), "red").save(file, "PNG")
    whole = file.getvalue()
    start = whole.index(b"IDAT") + 8
    garbled.write_bytes(whole[:start] + b"\x00" * 20 + whole[start + 20 :])
    return [words, cut, garbled]


def _check(service: RunningService, photos: list[Path], folder: Path, *, count: int) -> None:
    broken = _broken(photos[0], folder)
    good = _varied(photos, folder, count - len(broken), 500)
    sent = [*good[:1], *broken, *good[1:]]
    batch = _wait(service.client, submit_batch(service.client, sent, {})["batch_id"])
    assert batch["counts"]["succeeded"] == len(good)
    assert batch["counts"]["failed"] == len(broken)
    failed = {item["name"]: item["error"] for item in batch["items"] if item["error"]}
    assert set(failed) == {path.name for path in broken}
    for reason in failed.values():
        assert reason["type"] in {"invalid_image", "unsupported_format"}
        assert reason["message"]
    answer = urllib3.request("GET", f"{service.url}/api/v1/batches/{batch['batch_id']}/archive")
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"{path.stem}.png" for path in good]
        with Image.open(io.BytesIO(archive.read(archive.namelist()[-1]))) as cutout:
            assert cutout.mode == "RGBA"


def test_bad_pictures_fail_alone_and_the_archive_holds_the_rest(
    service: RunningService, photos: list[Path], tmp_path: Path
) -> None:
    _check(service, photos, tmp_path, count=9)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sixty_photos_of_which_three_are_broken(
    service: RunningService, photos: list[Path], tmp_path: Path
) -> None:
    _check(service, photos, tmp_path, count=60)


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


@pytest.fixture
def lone_api(
    servers: Servers, service_environment: dict[str, str], tmp_path: Path
) -> Iterator[tuple[ServiceClient, int]]:
    """An API without workers, so that nothing of what it takes in is begun."""
    env = {
        **service_environment,
        "RMBG_REDIS_URL": servers.new_database(),
        "RMBG_S3_BUCKET": f"{servers.bucket}-memory",
    }
    with reserved_ports() as ports:
        url = f"http://127.0.0.1:{ports[0]}"
        api = api_service(ports[0], env, probes.http_ok(f"{url}/healthz/live"))
        with running(api, tmp_path / "api.log") as process, ServiceClient(url) as client:
            yield client, process.pid


def _large(folder: Path, count: int, size: int) -> list[Path]:
    """Pictures of so many bytes, no two equal: noise behind a real header and body."""
    file = io.BytesIO()
    Image.new("RGB", (800, 600), "teal").save(file, "JPEG")
    head = file.getvalue()
    paths = [folder / f"large-{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(head + random.Random(number).randbytes(size - len(head)))
    return paths


def _check_memory(api: tuple[ServiceClient, int], folder: Path, count: int) -> None:
    client, pid = api
    # What is imported and connected at the first use is no part of it.
    submit_batch(client, _large(folder, 1, MB), {})
    photos = _large(folder, count, 10 * MB)
    with _watched(pid) as samples:
        batch = submit_batch(client, photos, {})
    rise = (max(samples) - samples[0]) / MB
    assert batch["counts"]["queued"] == count
    client.request("DELETE", f"/api/v1/batches/{batch['batch_id']}")
    assert rise < 60, f"{rise:.0f} MB for {count} pictures of 10 MB"


def test_a_batch_of_large_pictures_does_not_stand_in_memory(
    lone_api: tuple[ServiceClient, int], tmp_path: Path
) -> None:
    _check_memory(lone_api, tmp_path, 12)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hundred_pictures_of_ten_megabytes_do_not_stand_in_memory(
    lone_api: tuple[ServiceClient, int], tmp_path: Path
) -> None:
    _check_memory(lone_api, tmp_path, 100)


def _nine_megabytes(folder: Path) -> Path:
    path = folder / "single.jpg"
    picture = Image.effect_noise((3000, 2400), 90).convert("RGB")
    quality = 95
    picture.save(path, quality=quality)
    data = path.read_bytes()
    # Exactly 9 MB: what follows the end of a picture is no part of it.
    assert len(data) < 9 * MB
    path.write_bytes(data + bytes(9 * MB - len(data)))
    return path


@pytest.mark.parametrize("count", [12, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_a_single_upload_overtakes_a_running_batch(
    service: RunningService, photos: list[Path], tmp_path: Path, count: int
) -> None:
    single = _nine_megabytes(tmp_path)
    sent = _varied(photos, tmp_path, count, 400)
    batch = submit_batch(service.client, sent, {"cache": "false"})
    url = f"/api/v1/batches/{batch['batch_id']}"
    while service.client.request("GET", url)["counts"]["succeeded"] < 1:
        time.sleep(0.05)
    task_id = service.client.submit(single, {})
    done_before = service.client.request("GET", url)["counts"]["succeeded"]
    task = service.client.wait(task_id)
    assert task["status"] == "succeeded"
    jobs = [
        service.store.get(item["task_id"]) for item in service.client.request("GET", url)["items"]
    ]
    # Counted in jobs that ended before it did, the one that was running among them.
    ended = sum(
        job.finished_at is not None and job.finished_at <= _finished(service, task_id)
        for job in jobs
        if job is not None
    )
    assert ended - done_before <= 3
    service.client.request("DELETE", url)


def _finished(service: RunningService, task_id: str) -> float:
    job = service.store.get(task_id)
    assert job is not None
    assert job.finished_at is not None
    return job.finished_at
