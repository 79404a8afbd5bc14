"""Callers with keys of their own; and a worker's part, done by hand."""

import io
from dataclasses import dataclass
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.app import create_app
from api.services import Services
from tasks.jobs.job import JobError, Status
from tasks.jobs.store import lease_token
from tasks.object_store import result_key
from tests.support.submissions import PATH, PICTURE, data_of, form, refusal, task_id_of


@dataclass(frozen=True)
class Tenant:
    """One caller, whose key goes along with everything."""

    client: FlaskClient
    id: str
    key: str

    def call(self, method: str, path: str, **options: Any) -> TestResponse:  # noqa: ANN401
        headers = {"X-API-Key": self.key, **options.pop("headers", {})}
        return self.client.open(path, method=method, headers=headers, **options)

    def send(self, **fields: Any) -> TestResponse:  # noqa: ANN401 - as those of a form
        """Submit a picture that becomes a task of its own, though all are alike."""
        fields = {"image": ("a.png", PICTURE), "cache": "false", **fields}
        return self.call("POST", PATH, **form(**fields))

    def submit(self, **fields: Any) -> str:  # noqa: ANN401 - as those of a form
        return task_id_of(self.send(**fields))

    def data(self, path: str) -> dict[str, Any]:
        return data_of(self.call("GET", path), 200)

    def error(self, method: str, path: str, **options: Any) -> tuple[int, str]:  # noqa: ANN401
        return refusal(self.call(method, path, **options))


def tenant(
    services: Services,
    name: str,
    client: FlaskClient | None = None,
    *,
    webhook_url: str | None = None,
    rate_per_minute: int | None = None,
) -> Tenant:
    owner, key = services.runtime.api_keys.add(
        name, webhook_url=webhook_url, rate_per_minute=rate_per_minute
    )
    return Tenant(client or create_app(services).test_client(), owner.id, key)


def begin(services: Services, task_id: str) -> str:
    """Claim a job as a worker would; the lease's token."""
    token = lease_token("gpu0@test", 1)
    assert services.runtime.job_store.claim(task_id, token=token, worker="gpu0@test") == "claimed"
    return token


def end(services: Services, task_id: str, token: str, picture: bytes = b"a cutout") -> str:
    """Store the result of a claimed job and finish it; the result's key."""
    key = result_key(task_id, token, "png")
    services.runtime.object_store.put(key, io.BytesIO(picture), len(picture), "image/png")
    facts = {"format": "png", "width": 2, "height": 2, "size": len(picture), "result_key": key}
    store = services.runtime.job_store
    assert store.finish(task_id, token=token, status=Status.SUCCEEDED, **facts)
    return key


def finish(services: Services, task_id: str, picture: bytes = b"a cutout") -> str:
    """Do a job as a worker would; the key of its result."""
    return end(services, task_id, begin(services, task_id), picture)


def fail(services: Services, task_id: str, error: JobError) -> None:
    """Claim a job and fail it as a worker would."""
    token = begin(services, task_id)
    store = services.runtime.job_store
    assert store.finish(task_id, token=token, status=Status.FAILED, error=error)
