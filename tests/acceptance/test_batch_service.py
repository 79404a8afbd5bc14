"""A batch of large pictures to the real API: what memory it takes."""

import io
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from PIL import Image

from rmbg_client import Client
from tests.support.service import RunningApi

MB = 2**20


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


@pytest.mark.parametrize("count", [8, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_a_batch_of_large_pictures_does_not_stand_in_memory(
    lone_api: RunningApi, tmp_path: Path, count: int
) -> None:
    with Client(lone_api.url) as client:
        # What is imported and connected at the first use is no part of it.
        client.submit_batch(_large(tmp_path, 1, MB))
        photos = _large(tmp_path, count, 10 * MB)
        with _watched(lone_api.pid) as samples:
            batch = client.submit_batch(photos)
        client.erase_batch(batch.batch_id)
    assert batch.counts["queued"] == count
    rise = (max(samples) - samples[0]) / MB
    assert rise < 60, f"{rise:.0f} MB for {count} pictures of 10 MB"
