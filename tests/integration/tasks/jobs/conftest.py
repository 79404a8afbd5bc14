"""Submissions and a worker in this process, for equal jobs; tests may override each part."""

import io
import threading
from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient
from PIL import Image
from redis import Redis

from api.app import create_app
from api.inputs import InputFile, Submission
from api.services import Services
from tasks.jobs.job import Job
from tasks.worker.runner import Runner
from tests.support.equal_jobs import Submit
from tests.support.models import FakeModel
from tests.support.services import services_on


@pytest.fixture
def redis(services: Services) -> Redis:
    return services.runtime.redis


@pytest.fixture
def services(server_settings: dict[str, object], objects: object) -> Services:  # noqa: ARG001 - makes the bucket
    return services_on(server_settings)


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def runner(services: Services, model: FakeModel) -> Runner:
    return Runner(
        job_store=services.runtime.job_store,
        object_store=services.runtime.object_store,
        registry=services.runtime.registry,
        model=model,
        model_lock=threading.Lock(),
        limits=services.settings.image_limits,
        worker="gpu0@t",
        exit_child=lambda: None,
    )


@pytest.fixture
def client(services: Services) -> Iterator[FlaskClient]:
    with create_app(services).test_client() as client:
        yield client


@pytest.fixture(scope="module")
def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (60, 40), "orange").save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def submit(services: Services, picture: bytes) -> Submit:
    def send(**parts: object) -> Job:
        upload = InputFile(io.BytesIO(picture), len(picture), "a.png")
        made = Submission(image=upload, **parts)  # type: ignore[arg-type]
        return services.submissions.submit(made, "test").job

    return send
