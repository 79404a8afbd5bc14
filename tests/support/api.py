"""A client of the API in this process: sends pictures, reads answers, and does a worker's part."""

import io
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

from flask.testing import FlaskClient
from redis import Redis
from werkzeug.test import TestResponse

from api.app import create_app
from api.auth import SERVICES_EXTENSION
from api.services import Services
from api.waiting import TaskWaiter
from tasks.jobs.cache import ResultCache
from tasks.jobs.job import Job, JobError, Status
from tasks.jobs.job_objects import Eraser
from tasks.jobs.routing import JobDispatcher
from tasks.jobs.store import JobStore, lease_token
from tasks.jobs.task_listing import TaskList
from tasks.object_store import ObjectStore, result_key
from tasks.runtime import Runtime
from tests.support.jobs import recorded
from tests.support.submissions import PATH, PICTURE, data_of, form, refusal, task_id_of


def audited(lines: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return those lines of a log that belong to the audit log."""
    return [line for line in lines if str(line["event"]).startswith("audit.")]


class Api(FlaskClient):
    """The API as one caller sees it, and what is behind it.

    Attributes:
        owner: id of the caller; empty without a key.
        key: the caller's API key, which goes along with everything.
    """

    owner: str = ""
    key: str = ""

    @classmethod
    def on(cls, services: Services) -> "Api":
        app = create_app(services)
        app.test_client_class = cls
        return cast("Api", app.test_client())

    def with_parts(self, **parts: Any) -> "Api":  # noqa: ANN401 - as those of a runtime
        """Return an API over a runtime that has these parts and builds the others from them."""
        made = self.runtime
        store, jobs = parts.get("object_store", made.object_store), parts.get("job_store")
        runtime = Runtime(
            made.settings, redis=made.redis, celery_app=made.celery_app, object_store=store
        )
        if jobs is not None:
            runtime.dispatcher = JobDispatcher(made.celery_app, jobs)
            runtime.result_cache = ResultCache(made.redis, jobs)
            runtime.task_list = TaskList(made.redis, jobs)
            runtime.eraser = Eraser(jobs, made.object_store)
        for name, part in parts.items():
            setattr(runtime, name, part)
        return self.replaced(runtime=runtime, waiter=TaskWaiter(runtime))

    def with_settings(self, **settings: object) -> "Api":
        """Return an API with some settings of its own, over the same runtime."""
        return self.replaced(settings=self.services.settings.model_copy(update=settings))

    def replaced(self, **parts: Any) -> "Api":  # noqa: ANN401 - as those of the services
        """Return an API whose services have these parts."""
        made = Api.on(replace(self.services, **parts))
        made.owner, made.key, made.environ_base = self.owner, self.key, self.environ_base
        return made

    def tenant(self, name: str, **facts: Any) -> "Api":  # noqa: ANN401 - as those of a new key
        """Return a caller with a new key."""
        owner, key = self.runtime.api_keys.add(name, **facts)
        caller = cast("Api", self.application.test_client())
        caller.owner, caller.key = owner.id, key
        caller.environ_base["HTTP_X_API_KEY"] = key
        return caller

    @property
    def services(self) -> Services:
        return cast("Services", self.application.extensions[SERVICES_EXTENSION])

    @property
    def runtime(self) -> Runtime:
        return self.services.runtime

    @property
    def jobs(self) -> JobStore:
        return self.runtime.job_store

    @property
    def objects(self) -> ObjectStore:
        return self.runtime.object_store

    @property
    def redis(self) -> Redis:
        return self.runtime.redis

    def send(
        self,
        image: bytes = PICTURE,
        *,
        key: str | None = None,
        headers: dict[str, str] | None = None,
        **fields: Any,  # noqa: ANN401 - as those of a form
    ) -> TestResponse:
        """Submit a picture, under an Idempotency-Key or none; a field says whether by the cache."""
        sent = {**(headers or {}), **({} if key is None else {"Idempotency-Key": key})}
        fields = {"cache": "false", **fields, "image": ("a.png", image)}
        return self.post(PATH, headers=sent, **form(**fields))

    def submit(self, **fields: Any) -> str:  # noqa: ANN401 - as those of a form
        """Submit a picture that is accepted, and return the task's id."""
        return task_id_of(self.send(**fields))

    def data(self, path: str) -> dict[str, Any]:
        """Get what is at a path."""
        return data_of(self.get(path), 200)

    def error(self, method: str, path: str, **options: Any) -> tuple[int, str]:  # noqa: ANN401
        """Return the status and the type of an error that a call ends with."""
        return refusal(self.open(path, method=method, **options))

    def accepted(self, answer: TestResponse) -> Job:
        """Return the job that was accepted, as its record is now."""
        return self.job(data_of(answer)["task_id"])

    def job(self, task_id: str) -> Job:
        """Return a job as its record is now."""
        return recorded(self.jobs, task_id)

    def bucket(self) -> set[str]:
        """Return the keys of all objects."""
        return set(self.objects.list(""))

    def queued(self) -> list[str]:
        """Return the ids of the jobs that wait."""
        return self.jobs.ids(Status.QUEUED)

    def begin(self, task_id: str) -> str:
        """Claim a job as a worker would; the lease's token."""
        token = lease_token("gpu0@test", 1)
        assert self.jobs.claim(task_id, token=token, worker="gpu0@test") == "claimed"
        return token

    def end(self, task_id: str, token: str, picture: bytes = b"a cutout") -> str:
        """Store the result of a claimed job and finish it; the result's key."""
        key = result_key(task_id, token, "png")
        self.objects.put(key, io.BytesIO(picture), len(picture), "image/png")
        facts = {"format": "png", "width": 2, "height": 2, "size": len(picture), "result_key": key}
        assert self.jobs.finish(task_id, token=token, status=Status.SUCCEEDED, **facts)
        return key

    def finish(self, task_id: str, picture: bytes = b"a cutout") -> str:
        """Do a job as a worker would; the key of its result."""
        return self.end(task_id, self.begin(task_id), picture)

    def fail(self, task_id: str, error: JobError) -> None:
        """Claim a job and fail it as a worker would."""
        token = self.begin(task_id)
        assert self.jobs.finish(task_id, token=token, status=Status.FAILED, error=error)
