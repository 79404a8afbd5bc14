"""Accepting a picture: stored, recorded and queued, or refused and nothing kept."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from api.inputs import InputFile, Submission
from inference.options import Options, OutputFormat
from tasks.housekeeping.missing_messages import dispatch_seq_of, list_key
from tasks.jobs.job import Status
from tasks.jobs.job_objects import get_manifest
from tasks.jobs.routing import JobDispatcher
from tasks.jobs.store import JobStore
from tasks.object_store import MANIFESTS, task_id_of_object
from tests.support.api import Api
from tests.support.counting import REDIS, STORE, SYNCS, counted_calls
from tests.support.services import services_on, with_parts, with_settings
from tests.support.stores import WatchedStore
from tests.support.submissions import PICTURE, bomb, png, refusal, task_id_of

SETTINGS = {"max_image_mb": 1}


def test_a_picture_is_stored_recorded_and_queued(api: Api) -> None:
    asked = {"matte_color": "white", "output_format": "jpg", "quality": "80", "refine": "false"}
    answer = api.send(**asked)
    job = api.accepted(answer)
    data = answer.get_json()["data"]
    assert answer.headers["Location"] == data["status_url"]
    assert data["status"] == "queued"
    assert api.objects.get(job.original_key) == PICTURE
    options = Options(OutputFormat.JPG, (255, 255, 255, 255), quality=80, refine=False)
    assert Options.from_dict(job.options) == options
    assert job.file_stem == "a"

    queued = api.redis.lrange(list_key(f"{job.queue}|{int(job.priority)}"), 0, -1)
    sent = {each["headers"]["id"]: dispatch_seq_of(each) for each in map(json.loads, queued)}
    assert sent == {job.task_id: job.dispatch_seq}
    assert job.dispatch_seq > 0


def test_a_submission_and_a_poll_cost_no_more_than_their_own_round_trips_and_requests(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These counts do not depend on the clock; who raises one knows what each request pays."""
    caller = api.with_parts(object_store=replace(api.objects, sync_dir=tmp_path))
    caller.send()  # a first request also connects, and loads the scripts
    counts = counted_calls(monkeypatch)
    task_id = task_id_of(caller.send())
    # Room, charge, queue, record and message; what is known for a second may be asked again.
    assert counts[REDIS] <= 7
    assert counts[STORE] <= 2  # the original, its manifest
    assert counts[SYNCS] <= 1  # with the manifest, which is stored last
    counts.clear()
    assert caller.get(f"/api/v1/tasks/{task_id}").status_code == 200
    assert counts[REDIS] <= 1
    assert not counts[STORE]


@pytest.mark.parametrize(
    ("file", "status", "kind", "words"),
    [
        (b"", 400, "empty_image", "empty"),
        (b"just words, no picture\n" * 20, 422, "invalid_image", "no picture"),
        (png(size=(600, 600))[:200], 422, "invalid_image", "ends before"),
        (png(size=(1, 1)), 422, "image_too_small", "1 x 1"),
        (bomb(), 413, "too_many_pixels", "900"),
        (b"\xff\xd8\xff" + bytes(1_100_000), 413, "image_too_large", "limit is 1 MB"),
        (b"\xff\xd8\xff" + bytes(4_000_000), 413, "image_too_large", "limit is 1 MB"),
        (b"%PDF-1.7\n" + bytes(500), 415, "unsupported_format", "PDF"),
    ],
    ids=["empty", "text", "truncated", "1x1", "bomb", "1.1 MB", "4 MB", "pdf"],
)
def test_a_bad_file_gets_its_own_clear_error_and_nothing_is_recorded(
    api: Api, file: bytes, *, status: int, kind: str, words: str
) -> None:
    answer = api.send(file)
    assert refusal(answer) == (status, kind)
    assert words in answer.get_json()["message"]
    assert api.queued() == []


@pytest.mark.parametrize(
    ("settings", "asked", "seconds"),
    [
        ({}, None, 24 * 3600),
        ({"retention_hours": 72.0}, None, 24 * 3600),
        ({"retention_hours": 1.0}, None, 3600),
        ({"queue_seconds": 600.0}, None, 600),
        ({"queue_seconds": 600.0}, 60, 60),
        ({"queue_seconds": 600.0}, 6000, 600),
    ],
)
def test_a_task_that_nobody_begins_has_a_deadline(
    api: Api, settings: dict[str, float], asked: int | None, seconds: float
) -> None:
    picture = InputFile(io.BytesIO(PICTURE), len(PICTURE), "a.png")
    submission = Submission(image=picture, expires_in=asked, cache=False)
    job = with_settings(api.services, **settings).submissions.submit(submission, "test").job
    assert job.deadline == pytest.approx(job.created_at + seconds)
    assert job.deadline <= job.expires_at
    waiting = JobStore(api.redis, clock=lambda: now)
    now = job.created_at + seconds - 1
    assert not waiting.fail_overdue(job.task_id)
    now = job.created_at + seconds + 1
    assert waiting.fail_overdue(job.task_id)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"s3_endpoint": "http://127.0.0.1:1"}, "store_unavailable"),
        ({"redis_url": "redis://127.0.0.1:1/0"}, "queue_unavailable"),
    ],
)
def test_while_a_server_is_away_nothing_is_accepted_and_nothing_stays(
    api: Api, server_settings: dict[str, object], settings: dict[str, str], kind: str
) -> None:
    away = services_on(server_settings, **settings)
    store = WatchedStore(away.runtime.object_store)
    # The cache would find Redis away before anything could be put.
    answer = Api.on(with_parts(away, object_store=store)).send()
    assert refusal(answer) == (503, kind)
    assert answer.headers["Retry-After"].isdigit()
    assert store.named("put") == [] or kind == "store_unavailable"
    assert api.queued() == []


def test_a_restore_that_was_quicker_does_not_unmake_the_job(api: Api) -> None:
    def restore(key: str) -> None:
        """`rmbg restore` finds the manifest before the record is written."""
        job = get_manifest(api.objects, task_id_of_object(key))
        assert (job is not None) == key.startswith(MANIFESTS)
        if job is not None:
            api.jobs.create(job.evolve(queue="model.u2netp"))

    store = WatchedStore(api.objects, restore)
    answer = api.with_parts(object_store=store).send()
    assert api.accepted(answer).status is Status.QUEUED
    assert store.named("delete") == []


def test_a_message_that_cannot_be_sent_does_not_unmake_the_job(api: Api) -> None:
    class Broken:
        def send_task(self, *_: object, **__: object) -> None:
            raise OSError("broker away")

    dispatcher = JobDispatcher(Broken(), api.jobs)  # type: ignore[arg-type]
    answer = api.with_parts(dispatcher=dispatcher).send()
    assert api.queued() == [task_id_of(answer)]
