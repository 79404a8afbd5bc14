"""One key sees nothing of another's; every access to a picture leaves a line."""

import base64
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs

from api.services import Services
from tasks.jobs.job import Status
from tasks.object_store import original_key
from tests.support.servers import Servers
from tests.support.tenants import PHOTO, Tenant, finish, services_with_keys, tenant


@pytest.fixture(scope="module")
def services(servers: Servers, objects: object) -> Services:  # noqa: ARG001 - makes the bucket
    return services_with_keys(servers.settings(servers.new_database()))


@pytest.fixture(scope="module")
def shop(services: Services) -> Tenant:
    return tenant(services, "shop")


@pytest.fixture(scope="module")
def studio(services: Services) -> Tenant:
    return tenant(services, "studio")


@pytest.fixture
def audited() -> Iterator[list[dict[str, object]]]:
    with capture_logs() as lines:
        yield lines


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "?wait=1"),
        ("GET", "/result"),
        ("GET", "/events"),
        ("POST", "/cancel"),
        ("DELETE", ""),
        ("HEAD", ""),
        ("HEAD", "/events"),
    ],
)
@pytest.mark.parametrize("done", [True, False], ids=["done", "queued"])
def test_anothers_task_is_not_there(
    shop: Tenant, studio: Tenant, services: Services, method: str, path: str, *, done: bool
) -> None:
    task_id = shop.submit()
    if done:
        finish(services, task_id)
    before = services.runtime.job_store.get(task_id)
    theirs = studio.call(method, f"/api/v1/tasks/{task_id}{path}")
    nobodys = studio.call(method, f"/api/v1/tasks/rm-20261122-nothing{path}")
    assert theirs.status_code == nobodys.status_code == 404
    if method != "HEAD":
        foreign, unknown = theirs.get_json(), nobodys.get_json()
        assert foreign["error"]["type"] == "task_not_found"
        assert {**foreign, "request_id": ""} == {**unknown, "request_id": ""}
    assert services.runtime.job_store.get(task_id) == before
    assert services.runtime.object_store.get(original_key(task_id))


def test_anothers_batch_is_not_there(shop: Tenant, studio: Tenant) -> None:
    picture = base64.b64encode(PHOTO.read_bytes()).decode()
    answer = shop.call("POST", "/api/v1/remove-bg/batch", json={"items": [{"image_b64": picture}]})
    assert answer.status_code == 202, answer.get_json()
    batch = f"/api/v1/batches/{answer.get_json()['data']['batch_id']}"
    for method, path in [("GET", ""), ("GET", "/archive"), ("POST", "/cancel"), ("DELETE", "")]:
        assert studio.call(method, batch + path).status_code == 404, (method, path)
    assert shop.data(batch)["total"] == 1


def test_anothers_upload_is_not_there(shop: Tenant, studio: Tenant) -> None:
    tus = {"Tus-Resumable": "1.0.0"}
    begun = shop.call("POST", "/api/v1/uploads", headers={**tus, "Upload-Length": "3"})
    assert begun.status_code == 201
    path = urlsplit(begun.headers["Location"]).path
    piece = {**tus, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    assert studio.call("HEAD", path, headers=tus).status_code == 404
    assert studio.call("PATCH", path, headers=piece, data=b"abc").status_code == 404
    assert studio.call("DELETE", path, headers=tus).status_code == 404
    upload = {"upload_id": path.rpartition("/")[2]}
    assert shop.call("PATCH", path, headers=piece, data=b"abc").status_code == 204
    assert studio.error("POST", "/api/v1/remove-bg", json=upload)[0] == 404
    assert shop.call("HEAD", path, headers=tus).status_code == 200


def test_a_list_holds_the_callers_own_tasks_alone(shop: Tenant, studio: Tenant) -> None:
    mine, theirs = shop.submit(), studio.submit()
    listed = {each["task_id"] for each in shop.data("/api/v1/tasks?limit=100")["tasks"]}
    assert mine in listed
    assert theirs not in listed


def test_what_a_key_submitted_is_hidden_from_nobody_in_particular(
    shop: Tenant, services: Services
) -> None:
    task_id = shop.submit()
    job = services.runtime.job_store.get(task_id)
    assert job is not None
    assert job.owner == shop.id
    assert shop.client.get(f"/api/v1/tasks/{task_id}").status_code == 401


def test_each_access_to_a_picture_and_its_erasure_is_one_line(
    shop: Tenant, services: Services, audited: list[dict[str, object]]
) -> None:
    task_id = shop.submit()
    finish(services, task_id)
    request = {"X-Request-Id": "order-17"}
    for method, path in [("GET", ""), ("GET", "/result"), ("DELETE", "")]:
        answer = shop.call(method, f"/api/v1/tasks/{task_id}{path}", headers=request)
        assert answer.status_code in {200, 302}
    lines = [line for line in audited if str(line["event"]).startswith("audit.")]
    assert [line["event"] for line in lines] == [
        "audit.addresses_issued",
        "audit.result_read",
        "audit.erased",
    ]
    assert lines[0]["pictures"] == "original result"
    for line in lines:
        assert (line["owner"], line["task_id"]) == (shop.id, task_id)
        assert line["request_id"] == "order-17"
        assert "http" not in str(line)
        assert "X-Amz" not in str(line)


def test_a_refused_access_is_no_access(
    shop: Tenant, studio: Tenant, services: Services, audited: list[dict[str, object]]
) -> None:
    task_id = shop.submit()
    audited.clear()
    studio.call("GET", f"/api/v1/tasks/{task_id}/result")
    studio.call("DELETE", f"/api/v1/tasks/{task_id}")
    assert shop.error("GET", f"/api/v1/tasks/{task_id}/result") == (409, "task_not_finished")
    assert [line for line in audited if str(line["event"]).startswith("audit.")] == []
    assert task_id in services.runtime.job_store.ids(Status.QUEUED)
