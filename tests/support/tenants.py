"""An API with keys on, and two tenants who call it."""

import io
from dataclasses import dataclass
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.app import create_app
from api.services import Services
from tasks.jobs.job import Job, Status
from tasks.jobs.store import lease_token
from tasks.object_store import result_key
from tests.support.paths import DATA
from tests.support.services import services_on

PHOTO = DATA / "coffee.jpg"


@dataclass(frozen=True)
class Tenant:
    """One caller, whose key goes along with everything."""

    client: FlaskClient
    services: Services
    id: str
    key: str

    def call(self, method: str, path: str, **options: Any) -> TestResponse:  # noqa: ANN401
        headers = {"X-API-Key": self.key, **options.pop("headers", {})}
        return self.client.open(path, method=method, headers=headers, **options)

    def submit(self) -> str:
        with PHOTO.open("rb") as picture:
            # Alike, yet each is to be a task of its own that runs.
            form = {"image": (picture, "coffee.jpg"), "cache": "false"}
            answer = self.call("POST", "/api/v1/remove-bg", data=form)
        assert answer.status_code == 202, answer.get_json()
        return str(answer.get_json()["data"]["task_id"])

    def data(self, path: str) -> dict[str, Any]:
        answer = self.call("GET", path)
        assert answer.status_code == 200, answer.get_json()
        return dict(answer.get_json()["data"])

    def error(self, method: str, path: str, **options: Any) -> tuple[int, str]:  # noqa: ANN401
        answer = self.call(method, path, **options)
        return answer.status_code, answer.get_json()["error"]["type"]


def services_with_keys(server_settings: dict[str, object]) -> Services:
    """Return services that ask everybody for a key."""
    return services_on(server_settings, auth="on")


def tenant(services: Services, name: str, *, webhook_url: str | None = None) -> Tenant:
    owner, key = services.runtime.api_keys.add(name, webhook_url=webhook_url)
    return Tenant(create_app(services).test_client(), services, owner.id, key)


def job_of(services: Services, task_id: str) -> Job:
    job = services.runtime.job_store.get(task_id)
    assert job is not None
    return job


def begin(services: Services, task_id: str) -> str:
    """Claim a job as a worker would; the lease's token."""
    token = lease_token("gpu0@test", 1)
    assert services.runtime.job_store.claim(task_id, token=token, worker="gpu0@test") == "claimed"
    return token


def finish(services: Services, task_id: str, picture: bytes = b"a cutout") -> str:
    """Do a job as a worker would; the key of its result."""

    token = begin(services, task_id)
    key = result_key(task_id, token, "png")
    services.runtime.object_store.put(key, io.BytesIO(picture), len(picture), "image/png")
    facts = {"format": "png", "width": 2, "height": 2, "size": len(picture), "result_key": key}
    assert services.runtime.job_store.finish(task_id, token=token, status=Status.SUCCEEDED, **facts)
    return key
