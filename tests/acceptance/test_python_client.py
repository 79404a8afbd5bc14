"""The Python client against the running service: every call, lost answers, the API's death."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.local import probes, supervisor
from rmbg_client import AsyncClient, Bytes, Client, NoCutoutError, RetryPolicy, Upload
from rmbg_client.service_errors import InvalidImageError, InvalidParameterError, TaskNotFoundError
from tests.support.pictures import picture_file, subject_picture
from tests.support.servers import Servers, running
from tests.support.service import RunningService, api_service, running_api
from tests.support.serving import busy_and_losing_an_answer, serving

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


def test_a_batch_and_an_upload(client: Client, photos: list[Path], tmp_path: Path) -> None:
    batch = client.submit_batch([photos[0], Bytes(b"no picture", "broken.jpg")])
    assert [each.name for each in batch.items] == [photos[0].name, "broken.jpg"]
    assert batch.items[1].error is not None
    done = client.wait_batch(batch.batch_id)
    assert (done.status, done.counts["succeeded"]) == ("completed", 1)
    archive = client.archive(batch.batch_id, tmp_path / "cutouts.zip")
    assert archive.read_bytes().startswith(b"PK")
    assert client.cancel_batch(batch.batch_id).status == "completed"
    client.erase_batch(batch.batch_id)
    upload_id = client.begin_upload(photos[0])
    client.resume_upload(upload_id, photos[0])
    assert client.remove(Upload(upload_id)).startswith(PNG)
    client.end_upload(client.begin_upload(b"given up"))
    assert client.info()["limits"]


def test_the_asynchronous_client_cuts_pictures_out_at_once(
    service: RunningService, photos: list[Path]
) -> None:
    async def cut_out() -> list[bytes]:
        async with AsyncClient(service.url) as client:
            return await asyncio.gather(*(client.remove(photo) for photo in photos[:2]))

    assert all(cutout.startswith(PNG) for cutout in asyncio.run(cut_out()))


def test_a_lost_answer_and_a_busy_service_make_one_task(
    service: RunningService, photos: list[Path]
) -> None:
    seen: list[str] = []
    with (
        serving(busy_and_losing_an_answer(service.url, seen)) as port,
        Client(f"http://127.0.0.1:{port}") as client,
    ):
        assert client.submit(photos[0]).replayed
    assert len(seen) == 3
    assert len(set(seen)) == 1


def test_a_wait_survives_the_death_of_the_api(
    servers: Servers, service_environment: dict[str, str], tmp_path: Path
) -> None:
    # Without workers the task waits until it is canceled.
    env = {**service_environment, "RMBG_REDIS_URL": servers.new_database()}
    paused = threading.Event()
    ended: list[str] = []

    def wait(client: Client, task_id: str) -> None:
        try:
            client.wait(task_id, limit=60)
        except NoCutoutError as error:
            ended.append(error.task.status)

    def sleep(seconds: float) -> None:
        paused.set()  # the wait has met the API's death
        threading.Event().wait(seconds)

    with ExitStack() as stack:
        with running_api(env, tmp_path / "first.log") as api:
            policy = RetryPolicy(first_pause=0.1)
            client = stack.enter_context(Client(api.url, sleep=sleep, retries=policy))
            task = client.submit(picture_file(subject_picture((60, 40)))).task_id
            thread = threading.Thread(target=wait, args=(client, task))
            thread.start()
            stack.callback(thread.join, 60)
            supervisor.kill_group(api.pid)
            assert paused.wait(30)
        again = api_service(api.port, env, probes.http_ok(f"{api.url}/healthz/live"))
        stack.enter_context(running(again, tmp_path / "second.log"))
        assert client.cancel(task).status == "canceled"
        thread.join(60)
    assert ended == ["canceled"]
