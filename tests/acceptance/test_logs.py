"""What the real processes write: a job's whole story by its request id, and no secret."""

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import urllib3
from PIL import Image, ImageDraw

from tasks.jobs.job import Status
from tests.support.service import RunningService

REQUEST_ID = "order-4711"
#: Of a signed address, whoever may have written it down.
_SIGNATURE = re.compile(r"X-Amz-(Signature|Credential)=\w", re.IGNORECASE)


def _lines(folder: Path) -> list[dict[str, Any]]:
    lines = [line for log in folder.glob("*.log") for line in log.read_text().splitlines()]
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return sorted(found, key=lambda each: str(each["timestamp"]))


def _large(folder: Path) -> Path:
    """So large that there is time to strike while it is worked on."""
    picture = Image.effect_noise((4000, 3000), 80).convert("RGB")
    ImageDraw.Draw(picture).ellipse((1000, 500, 3000, 2500), fill="orange")
    picture.save(folder / "large.jpg", quality=85)
    return folder / "large.jpg"


def _submit(service: RunningService, picture: Path, **headers: str) -> str:
    answer = urllib3.request(
        "POST",
        f"{service.url}/api/v1/remove-bg",
        fields={"image": (picture.name, picture.read_bytes()), "cache": "false"},
        headers=headers,
    )
    assert answer.status == 202, answer.data
    return str(answer.json()["data"]["task_id"])


def _kill_child_at_work(service: RunningService, task_id: str) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        job = service.store.get(task_id)
        if job is not None and job.status is Status.PROCESSING:
            children = psutil.Process(service.model_worker_pid).children()
            child = max(children, key=lambda each: each.memory_info().rss)
            os.kill(child.pid, signal.SIGKILL)
            return
    pytest.fail("the job never began")


def _story(service: RunningService) -> list[dict[str, Any]]:
    """A worker may write its last line a moment after its last record."""
    end = time.monotonic() + 10
    while True:
        story = [line for line in _lines(service.logs) if line.get("request_id") == REQUEST_ID]
        if "job.succeeded" in {line["event"] for line in story} or time.monotonic() > end:
            return story
        time.sleep(0.05)


def test_a_job_s_whole_story_is_told_under_its_request_id(
    service: RunningService, tmp_path: Path
) -> None:
    task_id = _submit(service, _large(tmp_path), **{"X-Request-Id": REQUEST_ID})
    _kill_child_at_work(service, task_id)
    assert service.client.wait(task_id)["attempts"] == 2
    story = _story(service)
    events = [line["event"] for line in story]
    wanted = ["job.accepted", "request", "job.worker_died", "job.succeeded"]
    assert [event for event in events if event in wanted] == wanted
    by_event = {line["event"]: line for line in story}
    assert (by_event["request"]["method"], by_event["request"]["status"]) == ("POST", 202)
    assert by_event["job.worker_died"]["outcome"] == "queued"
    for event in ("job.accepted", "job.worker_died", "job.succeeded"):
        assert by_event[event]["task_id"] == task_id, event
    last = by_event["job.succeeded"]
    assert last["worker"] == "gpu0@acceptance"
    for stage in ("queue", "fetch", "decode", "preprocess", "inference", "encode", "store"):
        assert last[f"{stage}_ms"] >= 0, stage


def test_no_secret_is_ever_written(service: RunningService, coffee: Path, tmp_path: Path) -> None:
    key = "rmbg_key_that_must_not_be_logged"
    urllib3.request("GET", f"{service.url}/api/v1/tasks", headers={"X-API-Key": key})
    urllib3.request(
        "GET", f"{service.url}/api/v1/tasks", headers={"Authorization": f"Bearer {key}"}
    )
    task_id = _submit(service, coffee)
    task = service.client.wait(task_id)
    urllib3.request("GET", f"{service.url}/api/v1/tasks/{task_id}/result", redirect=False)
    # A signed address that somebody pastes where it does not belong.
    urllib3.request("GET", f"{service.url}/api/v1/tasks?url={task['result_url']}&api_key={key}")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    with_key = {"X-API-Key": key, "image": ("broken.png", broken.read_bytes())}
    urllib3.request("POST", f"{service.url}/api/v1/remove-bg", fields=with_key)
    text = "\n".join(log.read_text() for log in service.logs.glob("*.log"))
    assert task_id in text
    password = urlsplit(service.env["RMBG_REDIS_URL"]).password
    assert password
    secrets = {"Redis": password, "S3": service.env["RMBG_S3_SECRET_KEY"], "API key": key}
    assert not [name for name, secret in secrets.items() if secret in text]
    assert not _SIGNATURE.search(text)
