"""What the real processes show: a job's whole story by its request id, and no secret."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import urllib3

from tests.support.receivers import answering, receiver
from tests.support.service import STAGES, WORKER, RunningService, eventually

REQUEST_ID = "order-4711"
#: Of a signed address, whoever may have written it down.
_SIGNATURE = re.compile(r"X-Amz-(Signature|Credential)=\w", re.IGNORECASE)


def _story(service: RunningService) -> list[dict[str, Any]]:
    # By `grep` and `sort`, as docs/monitoring.md says.
    named = f'"request_id": "{REQUEST_ID}"'
    lines = [line for line in service.logged().splitlines() if named in line]
    return [json.loads(line) for line in sorted(lines)]


def test_a_killed_process_costs_a_job_one_attempt_and_its_request_id_leads_to_the_whole_story(
    service: RunningService, coffee: Path
) -> None:
    with receiver(answering(200)) as got:
        hook = {"webhook_url": got.url}
        with service.begun(coffee, {"X-Request-Id": REQUEST_ID}, **hook) as task_id:
            service.kill_model_process()
        task = service.client.wait(task_id)
        assert (task["status"], task["attempts"]) == ("succeeded", 2)
        wanted = [
            *("job.accepted", "request", "job.worker_died", "job.succeeded"),
            "webhook.attempted",
        ]
        eventually(
            "a line of each", lambda: {line["event"] for line in _story(service)} >= {*wanted}
        )
    story = [line for line in _story(service) if line["event"] in wanted]
    # The I/O worker may send the webhook before the worker has written that the job succeeded.
    story.sort(key=lambda line: line["event"] == "webhook.attempted")
    assert [line["event"] for line in story] == wanted
    accepted, request, died, succeeded, attempted = story
    assert (request["method"], request["status"]) == ("POST", 202)
    assert died["outcome"] == "queued"
    assert {line["task_id"] for line in (accepted, died, succeeded)} == {task_id}
    assert succeeded["worker"] == WORKER
    assert (attempted["subject"], attempted["outcome"]) == (task_id, "delivered")
    assert min(succeeded[f"{stage}_ms"] for stage in STAGES) >= 0


def test_no_secret_is_written_nor_an_argument_of_a_process(
    service: RunningService, coffee: Path
) -> None:
    key, token = "rmbg_key_that_must_not_be_logged", "token-that-must-not-be-logged"
    tasks = f"{service.url}/api/v1/tasks"
    for headers in ({"X-API-Key": key}, {"Authorization": f"Bearer {key}"}):
        urllib3.request("GET", tasks, headers=headers)
        urllib3.request("GET", service.metrics["api"], headers=headers)
    with receiver(answering(200)) as got:
        # Addresses of others, whose secrets are theirs: one is called, the other has no picture.
        hook = f"{got.url}?token={token}"
        task_id = service.client.submit(coffee, {"cache": "false", "webhook_url": hook})
        urllib3.request("POST", f"{service.url}/api/v1/remove-bg", json={"image_url": hook})
        task = service.client.wait(task_id)
        assert got.wait_for(2, 60), service.logged()
    urllib3.request("GET", f"{tasks}/{task_id}/result", redirect=False)
    # A signed address that somebody pastes where it does not belong.
    urllib3.request("GET", f"{tasks}?url={task['result_url']}&api_key={key}")
    with_key = {"X-API-Key": key, "image": ("broken.png", b"\x89PNG\r\n\x1a\nnonsense")}
    urllib3.request("POST", f"{service.url}/api/v1/remove-bg", fields=with_key)
    logs = service.logged()
    # As `ps` shows the command lines of all processes: the embedded servers' too.
    processes = psutil.process_iter(["cmdline"])
    arguments = "\n".join(" ".join(each.info["cmdline"] or ()) for each in processes)
    assert task_id in logs
    assert WORKER in arguments
    password = urlsplit(service.env["RMBG_REDIS_URL"]).password
    assert password
    secrets = {
        "Redis": password,
        "S3": service.env["RMBG_S3_SECRET_KEY"],
        "webhooks": service.env["RMBG_WEBHOOK_SECRET"].removeprefix("whsec_"),
        "API key": key,
        "another's token": token,
    }
    for text in (logs, arguments):
        assert not [name for name, secret in secrets.items() if secret in text]
        assert not _SIGNATURE.search(text)
