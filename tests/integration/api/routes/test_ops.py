"""What operators see of everybody's work and change, and who else does: nobody."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from api.auth import LOOPBACK_ONLY
from tasks.jobs.job import JobError
from tasks.operations import queue_states
from tasks.webhooks.deliveries import Attempt, DeliveryState, RetryDecision
from tests.support.api import Api
from tests.support.commands import WORKER, crash
from tests.support.submissions import data_of, refusal

SETTINGS = {"auth": "on", "grafana_url": "https://grafana.example/d/rmbg"}

OPS = "/api/v1/ops"
UNKNOWN = "rm-20261122-22222222222222222222"
DAMAGED = JobError("invalid_image", "The picture is damaged.", retryable=False)


@pytest.fixture
def operator(api: Api) -> Api:
    return api.tenant("operator", operator=True)


@pytest.fixture
def worker(api: Api) -> str:
    api.runtime.registry.record_heartbeat(WORKER, queue="gpu.testhost.0", model="u2netp")
    api.runtime.registry.mark_ready(WORKER, 60, pid=7)
    api.runtime.registry.record_result(WORKER, 2.0)
    return WORKER


def _audited(lines: Any) -> list[Any]:  # noqa: ANN401 - as structlog captures them
    return [line for line in lines if str(line["event"]).startswith("audit.")]


def _acts() -> list[tuple[str, str]]:
    return [
        ("GET", OPS),
        ("POST", f"{OPS}/workers/{WORKER}/drain"),
        ("POST", f"{OPS}/workers/{WORKER}/undrain"),
        ("POST", f"{OPS}/tasks/{UNKNOWN}/requeue"),
        ("DELETE", f"{OPS}/dead-letters/{UNKNOWN}"),
        ("POST", f"{OPS}/webhooks/msg_{UNKNOWN}_1/replay"),
        ("DELETE", f"{OPS}/webhooks/msg_{UNKNOWN}_1"),
    ]


def test_other_keys_change_and_learn_nothing(api: Api, shop: Api, worker: str) -> None:
    with capture_logs() as lines:
        for method, path in _acts():
            assert shop.error(method, path) == (403, "operators_only")
            assert api.error(method, path) == (401, "unauthorized")
    assert not api.runtime.registry.drained(worker)
    assert _audited(lines) == []
    assert shop.data("/api/v1/info")["operator"] is False


@pytest.mark.parametrize(
    ("settings", "local", "headers", "status"),
    [
        ({}, True, {}, 200),
        ({}, True, {"Host": "127.0.0.1:8000"}, 200),
        ({}, False, {}, 403),
        ({"trusted_proxies": 1}, True, {}, 403),
        ({"public_url": "https://cut.example"}, True, {"Host": "cut.example"}, 403),
        ({"cors_origins": "*"}, True, {"Origin": "https://evil.example"}, 403),
        ({"cors_origins": "*"}, True, {"Sec-Fetch-Site": "cross-site"}, 403),
    ],
    ids=str,
)
def test_without_keys_only_this_machine_is_an_operator(
    api: Api, settings: dict[str, object], *, local: bool, headers: dict[str, str], status: int
) -> None:
    asking = api.with_settings(auth="off", **settings)
    asking.application.config[LOOPBACK_ONLY] = local
    assert asking.get(OPS, headers=headers).status_code == status
    info = asking.get("/api/v1/info", headers=headers)
    assert data_of(info, 200)["operator"] == (status == 200)


def test_a_worker_is_drained_and_undrained(api: Api, operator: Api, worker: str) -> None:
    memory = ("resident_bytes", "gpu_used_bytes", "gpu_total_bytes")
    (shown,) = operator.data(OPS)["workers"]
    assert (shown["name"], shown["state"], shown["seconds_per_job"]) == (worker, "ready", 2.0)
    assert [shown[name] for name in memory] == [None] * 3, "one of a version that did not say"
    api.runtime.registry.update(worker, resident=5, gpu_used=0, gpu_total=7)
    (shown,) = operator.data(OPS)["workers"]
    assert [shown[name] for name in memory] == [5, 0, 7]
    path = f"{OPS}/workers/{worker}"
    with capture_logs() as lines:
        done = operator.post(f"{path}/drain", json={"reason": "new fan"})
        assert data_of(done, 200) == {"id": worker, "outcome": "drained"}
        (shown,) = operator.data(OPS)["workers"]
        assert (shown["state"], shown["drained"]) == ("drained", "new fan")
        data_of(operator.post(f"{path}/undrain"), 200)
        assert refusal(operator.post(f"{path}/undrain")) == (409, "worker_not_drained")
    assert not api.runtime.registry.drained(worker)
    drained, undrained = _audited(lines)
    assert (drained["event"], drained["operator"]) == ("audit.worker_drained", "operator")
    assert (drained["worker"], drained["reason"]) == (worker, "new fan")
    assert (undrained["event"], undrained["owner"]) == ("audit.worker_undrained", operator.owner)
    # Without a body, the reason is the usual one.
    data_of(operator.post(f"{path}/drain", json={}), 200)
    assert api.runtime.registry.drained(worker) == "by an operator"
    for verb in ("drain", "undrain"):
        gone = operator.post(f"{OPS}/workers/gpu9/{verb}", json={} if verb == "drain" else None)
        assert refusal(gone) == (404, "worker_not_found")


def test_failed_tasks_of_all_owners_are_queued_again(shop: Api, operator: Api) -> None:
    failed, dead = shop.submit(), shop.submit()
    shop.fail(failed, DAMAGED)
    crash(shop.jobs, dead)
    shown = operator.data(OPS)
    assert [each["task_id"] for each in shown["failed"]] == [failed]
    assert shown["totals"] == {
        "failed": 1,
        "dead_letters": 1,
        "waiting_webhooks": 0,
        "dead_webhooks": 0,
    }
    assert shown["failed"][0]["error"] == "invalid_image"
    assert shown["failed"][0]["owner"] == shop.owner
    assert [each["task_id"] for each in shown["dead_letters"]] == [dead]
    assert shown["counts"]["failed"] == 2
    with capture_logs() as lines:
        for task_id in (failed, dead):
            done = operator.post(f"{OPS}/tasks/{task_id}/requeue")
            assert data_of(done, 200)["outcome"] == "requeued"
            again = operator.post(f"{OPS}/tasks/{task_id}/requeue")
            assert refusal(again) == (409, "not_requeueable")
    assert sorted(shop.queued()) == sorted([failed, dead])
    audited = [(line["event"], line["task_id"]) for line in _audited(lines)]
    assert audited == [("audit.task_requeued", task_id) for task_id in (failed, dead)]
    assert operator.data(OPS)["dead_letters"] == []


def test_a_dead_letter_is_dropped_and_stays_failed(shop: Api, operator: Api) -> None:
    dead, waiting = shop.submit(), shop.submit()
    crash(shop.jobs, dead)
    path = f"{OPS}/dead-letters"
    with capture_logs() as lines:
        assert data_of(operator.delete(f"{path}/{dead}"), 200)["outcome"] == "dropped"
        for task_id in (dead, waiting):
            assert refusal(operator.delete(f"{path}/{task_id}")) == (409, "not_dead")
    assert [line["event"] for line in _audited(lines)] == ["audit.dead_letter_dropped"]
    assert [each["task_id"] for each in operator.data(OPS)["failed"]] == [dead]


def test_a_webhook_is_dropped_and_replayed(shop: Api, operator: Api) -> None:
    task_id = shop.submit(webhook_url="https://93.184.216.34/hook?token=hush-hush")
    shop.finish(task_id)
    answer = operator.get(OPS)
    assert b"hush-hush" not in answer.data
    (shown,) = data_of(answer, 200)["waiting_webhooks"]
    assert (shown["host"], shown["subject"], shown["state"]) == (
        "93.184.216.34",
        task_id,
        "pending",
    )
    assert shown["next_attempt_at"]
    path = f"{OPS}/webhooks/{shown['webhook_id']}"
    deliveries = operator.runtime.deliveries
    with capture_logs() as lines:
        data_of(operator.delete(path), 200)
        assert [row.state for row in deliveries.of(task_id)] == [DeliveryState.DROPPED]
        data_of(operator.post(f"{path}/replay"), 200)
    assert [row.state for row in deliveries.of(task_id)] == [DeliveryState.PENDING]
    events = [line["event"] for line in _audited(lines)]
    assert events == ["audit.webhook_dropped", "audit.webhook_replayed"]
    (row,) = deliveries.of(task_id)
    deliveries.dispatch(row, 4e9, seconds=30, limit=99, threads=99)
    claim = str(deliveries.claim(row, 4e9, seconds=30))
    end = RetryDecision(DeliveryState.DELIVERED, 4e9)
    deliveries.record_attempt(row, claim, Attempt(4e9, "delivered", 200, 7, ""), end)
    assert refusal(operator.delete(path)) == (409, "webhook_ended")


@pytest.mark.parametrize(
    ("method", "path", "error"),
    [
        ("POST", "tasks/{}/requeue", "task_not_found"),
        ("DELETE", "dead-letters/{}", "task_not_found"),
        ("POST", "webhooks/{}/replay", "webhook_not_found"),
        ("DELETE", "webhooks/{}", "webhook_not_found"),
    ],
)
def test_what_is_no_id_is_not_there(
    operator: Api, shop: Api, method: str, path: str, error: str
) -> None:
    for given in (UNKNOWN, f"{shop.submit()}:lease", "*"):
        assert operator.error(method, f"{OPS}/{path.format(given)}") == (404, error)


def test_queues_show_what_waits_and_what_a_new_job_would(
    api: Api, shop: Api, operator: Api, worker: str
) -> None:
    for priority in ("low", "low", "high", "normal"):
        shop.submit(priority=priority, model="u2netp")
    states = queue_states(api.runtime, api.runtime.registry.workers())
    waiting = [(name, count) for each in states for name, count in each.waiting.items() if count]
    assert sum(count for _, count in waiting) == 4
    shared = next(each for each in operator.data(OPS)["queues"] if each["name"] == "model.u2netp")
    # One worker of 2 s a job, and four jobs before the next one, of its own queue or the shared.
    assert shared["expected_seconds"] == 8.0
    api.runtime.registry.drain(worker, "new fan")
    shared = next(each for each in operator.data(OPS)["queues"] if each["name"] == "model.u2netp")
    assert shared["expected_seconds"] is None


def test_links_are_those_of_the_settings(operator: Api) -> None:
    links = operator.data(OPS)["links"]
    assert links == {"flower": None, "grafana": "https://grafana.example/d/rmbg"}
