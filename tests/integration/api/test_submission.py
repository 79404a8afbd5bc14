"""Accepting a picture: stored, recorded and queued, or refused and nothing kept."""

import json

import pytest

from tasks.housekeeping.missing_messages import dispatch_seq_of, list_key
from tasks.jobs.job import Status
from tasks.jobs.job_objects import get_manifest
from tasks.jobs.routing import JobDispatcher
from tasks.jobs.store import JobStore
from tasks.object_store import MANIFESTS, task_id_of_object
from tests.support.api import Api
from tests.support.services import services_on
from tests.support.stores import WatchedStore
from tests.support.submissions import PICTURE, bomb, data_of, png, refusal, task_id_of

SETTINGS = {"max_image_mb": 1}


def test_a_picture_is_stored_recorded_and_queued(api: Api) -> None:
    answer = api.send()
    job, data = api.accepted(answer), data_of(answer)
    assert answer.headers["Location"] == data["status_url"]
    assert data["status"] == "queued"
    assert api.objects.get(job.original_key) == PICTURE
    assert job.file_stem == "a"

    queued = api.redis.lrange(list_key(f"{job.queue}|{int(job.priority)}"), 0, -1)
    sent = {each["headers"]["id"]: dispatch_seq_of(each) for each in map(json.loads, queued)}
    assert sent == {job.task_id: job.dispatch_seq}
    assert job.dispatch_seq > 0


def test_a_bad_file_gets_its_own_clear_error_and_nothing_is_recorded(api: Api) -> None:
    for file, status, kind, words in (
        (b"", 400, "empty_image", "empty"),
        (b"just words, no picture\n" * 20, 422, "invalid_image", "no picture"),
        (png(size=(600, 600))[:200], 422, "invalid_image", "ends before"),
        (png(size=(1, 1)), 422, "image_too_small", "1 x 1"),
        (bomb(), 413, "too_many_pixels", "900"),
        (b"\xff\xd8\xff" + bytes(1_100_000), 413, "image_too_large", "limit is 1 MB"),
        (b"\xff\xd8\xff" + bytes(4_000_000), 413, "image_too_large", "limit is 1 MB"),
        (b"%PDF-1.7\n" + bytes(500), 415, "unsupported_format", "PDF"),
    ):
        assert refusal(api.send(file), words) == (status, kind)
    assert api.queued() == []


def test_a_task_that_nobody_begins_has_a_deadline(api: Api) -> None:
    for seconds, settings, asked in (
        (24 * 3600, {}, {}),
        (3600, {"retention_hours": 1.0}, {}),
        (60, {"queue_seconds": 600.0}, {"expires_in": "60"}),
        (600, {"queue_seconds": 600.0}, {"expires_in": "6000"}),
    ):
        job = api.accepted(api.with_settings(**settings).send(**asked))
        assert job.deadline == pytest.approx(job.created_at + seconds)
        assert job.deadline <= job.expires_at
        for late in (-1, 1):
            waiting = JobStore(api.redis, clock=lambda at=job.deadline + late: at)
            assert waiting.fail_overdue(job.task_id) == (late > 0)


def test_while_a_server_is_away_nothing_is_accepted_and_nothing_stays(
    api: Api, server_settings: dict[str, object]
) -> None:
    for kind, settings in (
        ("store_unavailable", {"s3_endpoint": "http://127.0.0.1:1"}),
        ("queue_unavailable", {"redis_url": "redis://127.0.0.1:1/0"}),
    ):
        away = Api.on(services_on(server_settings, **settings))
        store = WatchedStore(away.objects)
        # The cache would find Redis away before anything could be put.
        answer = away.with_parts(object_store=store).send()
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
