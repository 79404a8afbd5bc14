"""A photo in, a cutout out, through every process of the real service."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from tasks.jobs.job import Status
from tasks.object_store import ObjectStore, original_key, results_prefix
from tasks.runtime import Runtime
from tests.support.jobs import make_job
from tests.support.pictures import read_picture
from tests.support.programs import run_program
from tests.support.service import (
    STAGES,
    WORKER,
    RunningApi,
    RunningService,
    api_service,
    eventually,
    settings_of,
)


def test_every_photo_comes_back_cut_out(service: RunningService, photos: list[Path]) -> None:
    for photo in photos:
        task = service.client.wait(service.client.submit(photo, {"cache": "false"}))
        assert (task["status"], task["worker"], task["attempts"]) == ("succeeded", WORKER, 1)
        assert {f"{stage}_ms" for stage in STAGES} <= set(task["timings"])
        assert task["elapsed_ms"] >= task["timings"]["inference_ms"]
        cutout = read_picture(service.client.download(task["result_url"]))
        assert (cutout.format, cutout.mode) == ("PNG", "RGBA"), photo.name
        with Image.open(photo) as original:
            assert cutout.size == original.size, photo.name
        pixels = np.asarray(cutout)
        alpha = pixels[..., 3]
        assert (alpha < 10).mean() > 0.1, f"{photo.name}: no background was removed"
        assert (alpha > 245).mean() > 0.1, f"{photo.name}: no subject was kept"
        assert not pixels[alpha == 0][:, :3].any(), f"{photo.name}: old background under alpha 0"


@pytest.mark.parametrize(
    ("method", "end"), [("POST", "/cancel"), ("DELETE", "")], ids=["cancel", "delete"]
)
def test_a_job_that_runs_is_ended_and_leaves_nothing_that_it_made(
    service: RunningService, coffee: Path, method: str, end: str
) -> None:
    with service.begun(coffee) as task_id:
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


def test_the_worker_parent_loads_no_model_library(service: RunningService) -> None:
    mapped = {
        Path(each.path).name for each in psutil.Process(service.model_worker_pid).memory_maps()
    }
    assert not [
        name for name in mapped if "mnn" in name or "onnxruntime" in name or "torch" in name
    ]


def test_equal_pictures_at_once_run_the_model_once(service: RunningService, coffee: Path) -> None:
    def submit(_: int) -> str:
        return service.client.submit(coffee, {"max_side": "333"})

    with ThreadPoolExecutor(50) as threads:
        sent = list(threads.map(submit, range(50)))
    done = [service.client.wait(each) for each in sent]
    assert {each["status"] for each in done} == {"succeeded"}
    assert len({each["task_id"] for each in done}) == 50
    assert sum(each["attempts"] for each in done) == 1
    assert sum(each["cached"] for each in done) == 49
    assert len({service.client.download(each["result_url"]) for each in done[::7]}) == 1


def test_an_open_address_without_keys_is_not_served(lone_api: RunningApi) -> None:
    command = api_service(0, {}).command
    everywhere = [each.replace("127.0.0.1", "0.0.0.0") for each in command]  # noqa: S104 - refused
    done = run_program(*everywhere, env={**os.environ, **lone_api.env})
    assert done.returncode == 1
    assert "rmbg keys add" in done.stderr
    assert "RMBG_AUTH=off" in done.stderr
    assert "Listening" not in done.stderr
