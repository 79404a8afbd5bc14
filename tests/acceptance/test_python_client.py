"""The Python client against the running service: every call."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rmbg_client import Bytes, Client, NoCutoutError, Upload
from rmbg_client.service_errors import InvalidImageError, InvalidParameterError, TaskNotFoundError
from tests.support.service import RunningService

PNG = b"\x89PNG"


@pytest.fixture
def client(service: RunningService) -> Iterator[Client]:
    with Client(service.url) as client:
        yield client


def test_a_task_from_submission_to_erasure(
    client: Client, photos: list[Path], garbled: Path, tmp_path: Path
) -> None:
    assert client.remove(photos[0], crop=True, metadata={"order": 17}).startswith(PNG)
    (newest,) = client.tasks(limit=1).tasks
    assert (newest.status, newest.metadata) == ("succeeded", {"order": 17})
    target = client.download(newest.task_id, tmp_path / "cutout.png")
    assert target.read_bytes() == client.result(newest.task_id)
    assert client.cancel(newest.task_id).status == "succeeded"
    client.erase(newest.task_id)
    client.erase(newest.task_id)
    with pytest.raises(TaskNotFoundError):
        client.task(newest.task_id)
    with pytest.raises(InvalidImageError):
        client.submit(b"no picture")
    with pytest.raises(InvalidParameterError) as caught:
        client.submit(photos[0], quality=500)
    assert "quality" in caught.value.fields
    with pytest.raises(NoCutoutError) as failed:
        client.remove(garbled)
    assert failed.value.task.error is not None


def test_a_batch_and_an_upload(
    client: Client, photos: list[Path], garbled: Path, tmp_path: Path
) -> None:
    sent = [photos[0], Bytes(b"no picture", "words.jpg"), garbled, *photos[1:]]
    batch = client.submit_batch(sent)
    assert batch.items[1].error is not None
    done = client.wait_batch(batch.batch_id)
    failed = {each.name: each.error.type for each in done.items if each.error}
    assert failed == dict.fromkeys(("words.jpg", garbled.name), "invalid_image")
    assert (done.status, done.counts["succeeded"]) == ("completed", len(photos))
    with zipfile.ZipFile(client.archive(batch.batch_id, tmp_path / "cutouts.zip")) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"{photo.stem}.png" for photo in photos]
    assert client.cancel_batch(batch.batch_id).status == "completed"
    client.erase_batch(batch.batch_id)
    upload_id = client.begin_upload(photos[0])
    client.resume_upload(upload_id, photos[0])
    assert client.remove(Upload(upload_id)).startswith(PNG)
    client.end_upload(client.begin_upload(b"given up"))
    assert client.info()["limits"]
