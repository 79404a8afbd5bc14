"""What operators see of everybody's work and change, and who else does: nobody."""

import pytest
from structlog.testing import capture_logs

from api.auth import LOOPBACK_ONLY
from tasks.jobs.job import JobError
from tasks.webhooks.deliveries import DeliveryState
from tests.support.api import Api, audited
from tests.support.commands import WORKER, crash
from tests.support.outbox import attempted
from tests.support.submissions import data_of
from tests.support.workers import lasting_registry

SETTINGS = {"auth": "on", "grafana_url": "https://grafana.example/d/rmbg"}

OPS = "/api/v1/ops"
UNKNOWN = "rm-20261122-22222222222222222222"
HOOK = "https://93.184.216.34/hook?token=hush-hush"
DAMAGED = JobError("invalid_image", "The picture is damaged.", retryable=False)


@pytest.fixture
def operator(api: Api) -> Api:
    return api.tenant("operator", operator=True)


@pytest.fixture
def worker(api: Api) -> str:
    registry = lasting_registry(api.redis)
    registry.record_heartbeat(WORKER, queue="gpu.testhost.0", model="u2netp")
    registry.mark_ready(WORKER, 60, pid=7)
    registry.record_result(WORKER, 2.0)
    return WORKER


def _webhook(shop: Api) -> str:
    """The id of a webhook that waits."""
    task_id = shop.submit(webhook_url=HOOK)
    shop.finish(task_id)
    (row,) = shop.runtime.deliveries.of(task_id)
    return row.id


def test_other_keys_change_and_learn_nothing(api: Api, shop: Api, worker: str) -> None:
    with capture_logs() as lines:
        for method, path in (
            ("GET", ""),
            ("POST", f"/workers/{worker}/drain"),
            ("POST", f"/workers/{worker}/undrain"),
            ("POST", f"/tasks/{UNKNOWN}/requeue"),
            ("DELETE", f"/dead-letters/{UNKNOWN}"),
            ("POST", f"/webhooks/msg_{UNKNOWN}_1/replay"),
            ("DELETE", f"/webhooks/msg_{UNKNOWN}_1"),
        ):
            assert shop.error(method, OPS + path) == (403, "operators_only")
            assert api.error(method, OPS + path) == (401, "unauthorized")
    assert not api.runtime.registry.drained(worker)
    assert audited(lines) == []
    assert shop.data("/api/v1/info")["operator"] is False


def test_without_keys_only_this_machine_is_an_operator(api: Api) -> None:
    rows: list[tuple[int, bool, dict[str, object], dict[str, str]]] = [
        (200, True, {}, {"Host": "127.0.0.1:8000"}),
        (403, False, {}, {}),
        (403, True, {"trusted_proxies": 1}, {}),
        *((403, True, {}, {name: "192.0.2.1"}) for name in ("X-Forwarded-For", "Forwarded")),
        (403, True, {"public_url": "https://cut.example"}, {"Host": "cut.example"}),
        (403, True, {"cors_origins": "*"}, {"Origin": "https://evil.example"}),
        (403, True, {"cors_origins": "*"}, {"Sec-Fetch-Site": "cross-site"}),
    ]
    for status, local, settings, headers in rows:
        asking = api.with_settings(auth="off", **settings)
        asking.application.config[LOOPBACK_ONLY] = local
        assert asking.get(OPS, headers=headers).status_code == status, (settings, headers)
        info = asking.get("/api/v1/info", headers=headers)
        assert data_of(info, 200)["operator"] == (status == 200)


def test_the_work_of_all_owners_is_shown(shop: Api, operator: Api, worker: str) -> None:
    failed, dead, webhook = shop.submit(), shop.submit(), _webhook(shop)
    shop.fail(failed, DAMAGED)
    crash(shop.jobs, dead)
    for priority in ("low", "low", "high", "normal"):
        shop.submit(priority=priority, model="u2netp")
    answer = operator.get(OPS)
    assert b"hush-hush" not in answer.data
    shown = data_of(answer, 200)
    memory = ("resident_bytes", "gpu_used_bytes", "gpu_total_bytes")
    (row,) = shown["workers"]
    assert (row["name"], row["state"], row["seconds_per_job"]) == (worker, "ready", 2.0)
    assert [row[name] for name in memory] == [None] * 3, "one of a version that did not say"
    (row,) = shown["failed"]
    assert (row["task_id"], row["error"], row["owner"]) == (failed, "invalid_image", shop.owner)
    assert [each["task_id"] for each in shown["dead_letters"]] == [dead]
    (row,) = shown["waiting_webhooks"]
    assert (row["webhook_id"], row["host"]) == (webhook, "93.184.216.34")
    assert (row["state"], bool(row["next_attempt_at"])) == ("pending", True)
    webhooks = {"waiting_webhooks": 1, "dead_webhooks": 0}
    assert shown["totals"] == {"failed": 1, "dead_letters": 1, **webhooks}
    assert (shown["counts"]["failed"], shown["counts"]["queued"]) == (2, 4)
    assert shown["links"] == {"flower": None, "grafana": "https://grafana.example/d/rmbg"}
    queues = {each["name"]: each for each in shown["queues"]}
    assert sum(sum(each["waiting"].values()) for each in queues.values()) == 4
    # One worker of 2 s a job, and four jobs before the next one, of its own queue or the shared.
    assert queues["model.u2netp"]["expected_seconds"] == 8.0

    operator.runtime.registry.update(worker, resident=5, gpu_used=0, gpu_total=7)
    operator.runtime.registry.drain(worker, "new fan")
    shown = operator.data(OPS)
    (row,) = shown["workers"]
    assert (row["state"], row["drained"]) == ("drained", "new fan")
    assert [row[name] for name in memory] == [5, 0, 7]
    queues = {each["name"]: each for each in shown["queues"]}
    assert queues["model.u2netp"]["expected_seconds"] is None


def test_each_act_is_done_once_and_audited(shop: Api, operator: Api, worker: str) -> None:
    failed, dead, dropped = (shop.submit() for _ in range(3))
    shop.fail(failed, DAMAGED)
    for task_id in (dead, dropped):
        crash(shop.jobs, task_id)
    webhook = _webhook(shop)
    requeued, not_dead = (409, "not_requeueable"), (409, "not_dead")
    for method, path, named, act, again in (
        ("POST", "workers/{}/drain", worker, "worker_drained", None),
        ("POST", "workers/{}/undrain", worker, "worker_undrained", (409, "worker_not_drained")),
        ("POST", "tasks/{}/requeue", failed, "task_requeued", requeued),
        ("POST", "tasks/{}/requeue", dead, "task_requeued", requeued),
        ("DELETE", "dead-letters/{}", dropped, "dead_letter_dropped", not_dead),
        ("DELETE", "webhooks/{}", webhook, "webhook_dropped", None),
        ("POST", "webhooks/{}/replay", webhook, "webhook_replayed", None),
    ):
        url = f"{OPS}/{path.format(named)}"
        body = {"reason": "new fan"} if act == "worker_drained" else None
        with capture_logs() as lines:
            done = data_of(operator.open(url, method=method, json=body), 200)
            assert again is None or operator.error(method, url) == again
        assert done == {"id": named, "outcome": act.rpartition("_")[2]}
        (line,) = audited(lines)
        assert (line["event"], line["operator"]) == (f"audit.{act}", "operator")
        assert line["owner"] == operator.owner
        assert named in line.values()
    assert sorted(shop.queued()) == sorted([failed, dead])
    assert [each["task_id"] for each in operator.data(OPS)["failed"]] == [dropped]
    assert not operator.runtime.registry.drained(worker)
    data_of(operator.post(f"{OPS}/workers/{worker}/drain", json={}), 200)
    assert operator.runtime.registry.drained(worker) == "by an operator"


def test_a_webhook_that_was_delivered_is_not_dropped(shop: Api, operator: Api) -> None:
    webhook, deliveries = _webhook(shop), operator.runtime.deliveries
    (row,) = deliveries.waiting(9)
    attempted(deliveries, row, DeliveryState.DELIVERED, now=4e9)
    assert operator.error("DELETE", f"{OPS}/webhooks/{webhook}") == (409, "webhook_ended")


def test_what_is_no_id_is_not_there(operator: Api, shop: Api) -> None:
    for given in (UNKNOWN, f"{shop.submit()}:lease", "*"):
        for method, path, error in (
            ("POST", "workers/{}/drain", "worker_not_found"),
            ("POST", "workers/{}/undrain", "worker_not_found"),
            ("POST", "tasks/{}/requeue", "task_not_found"),
            ("DELETE", "dead-letters/{}", "task_not_found"),
            ("POST", "webhooks/{}/replay", "webhook_not_found"),
            ("DELETE", "webhooks/{}", "webhook_not_found"),
        ):
            body = {} if path.endswith("/drain") else None
            answer = operator.error(method, f"{OPS}/{path.format(given)}", json=body)
            assert answer == (404, error), path
