"""Redis goes away at the very moment at which a job is recorded: is it accepted, or is it not?"""

import io
import threading
import time
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image
from pydantic import SecretStr
from redis import Redis
from werkzeug.test import TestResponse

from api.app import create_app
from api.circuit_breaker import BreakerRedis, CircuitBreaker
from api.services import Services
from inference.models.base import Alpha, Rgb, StageHook, no_stages
from tasks import redis_client
from tasks.jobs.job import Status
from tasks.jobs.restore import Restorer
from tasks.jobs.store import JobStore
from tasks.object_store import task_id_of_object
from tasks.redis_client import client_options
from tasks.worker.runner import Runner
from tests.support.redis_proxy import Fault, RedisProxy, redis_proxy
from tests.support.services import services_on, with_parts

#: A field that only `create` and `create_finished` name.
MARKER = b"original_key"


class Model:
    """Finds a subject everywhere."""

    name = "u2netp"

    def warm_up(self) -> None:
        pass

    def matte(self, images: Sequence[Rgb], stages: StageHook = no_stages) -> list[Alpha]:
        with stages("preprocess"), stages("inference"):
            return [np.ones(image.shape[:2], np.float32) for image in images]


@pytest.fixture
def services(server_settings: dict[str, object], redis: Redis) -> Services:
    services = services_on(
        server_settings, s3_bucket=f"{server_settings['s3_bucket']}-lost-answers"
    )
    services.runtime.object_store.ensure_bucket()
    for key in services.runtime.object_store.list(""):
        services.runtime.object_store.delete(key)
    # So that none has to be sent as a text first.
    redis.script_load(redis_client.JOBS.text)
    return services


@pytest.fixture
def proxy(services: Services) -> Iterator[tuple[RedisProxy, int]]:
    port = urlsplit(services.settings.redis_url.get_secret_value()).port
    assert port
    with redis_proxy(port, MARKER) as made:
        yield made


@pytest.fixture
def faulty(proxy: tuple[RedisProxy, int]) -> RedisProxy:
    return proxy[0]


@pytest.fixture
def client(services: Services, proxy: tuple[RedisProxy, int]) -> Iterator[FlaskClient]:
    parts = urlsplit(services.settings.redis_url.get_secret_value())
    address = parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{proxy[1]}").geturl()
    with BreakerRedis.from_url(address, **client_options(timeout=0.7)) as through:
        through.breaker = CircuitBreaker()
        tampered = with_parts(services, job_store=JobStore(through))
        with create_app(tampered).test_client() as client:
            yield client


def _picture(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (60, 40), colour).save(file, "PNG")
    return file.getvalue()


def _send(client: FlaskClient, colour: str = "orange", key: str | None = None) -> TestResponse:
    form = {
        "image": (io.BytesIO(_picture(colour)), "a.png"),
        "background_image": (io.BytesIO(_picture("black")), "b.png"),
    }
    return client.post(
        "/api/v1/remove-bg", data=form, headers={"Idempotency-Key": key} if key else {}
    )


def _send_until_answered(client: FlaskClient, **options: str) -> TestResponse:
    """Send a request again while the circuit breaker is open, as its 503 asks for."""
    end = time.monotonic() + 10
    while (answer := _send(client, **options)).status_code == 503:
        assert time.monotonic() < end
        time.sleep(0.1)
    return answer


def _id(answer: TestResponse) -> str:
    assert answer.status_code in {200, 202}, answer.get_json()
    return str(answer.get_json()["data"]["task_id"])


def _assert_refused(answer: TestResponse) -> None:
    assert answer.status_code == 503, answer.get_json()
    assert answer.get_json()["error"]["type"] == "queue_unavailable"
    assert answer.headers["Retry-After"] == "5"


def _run_all(services: Services) -> list[str]:
    """What a worker does, and the ids of those that succeeded."""
    runner = Runner(
        job_store=services.runtime.job_store,
        object_store=services.runtime.object_store,
        registry=services.runtime.registry,
        model=Model(),
        model_lock=threading.Lock(),
        limits=services.settings.image_limits,
        worker="gpu0@t",
        exit_child=lambda: None,
    )
    for task_id in services.runtime.job_store.ids(Status.QUEUED):
        runner.run(task_id)
    return services.runtime.job_store.ids(Status.SUCCEEDED)


def _messages(redis: Redis) -> int:
    return sum(redis.llen(key) for key in redis.keys("model.*"))


def _make_known(client: FlaskClient, services: Services) -> list[str]:
    """A job whose result the next equal one gets, so that its record is final from the first."""
    known = _id(_send(client))
    assert _run_all(services) == [known]
    return [known]


@pytest.mark.parametrize("known", [False, True])
def test_a_job_whose_record_was_written_is_accepted_though_the_answer_was_lost(
    client: FlaskClient, services: Services, faulty: RedisProxy, redis: Redis, *, known: bool
) -> None:
    before = _make_known(client, services) if known else []
    messages = _messages(redis)
    faulty.fault = Fault.LOSE_ANSWER
    task_id = _id(_send(client, key="order-17"))
    assert faulty.met.is_set()
    assert _messages(redis) == messages + (not known)
    assert sorted(_run_all(services)) == sorted([*before, task_id])
    assert _id(_send(client, key="order-17")) == task_id


@pytest.mark.parametrize("known", [False, True])
def test_a_record_that_comes_after_the_refusal_is_not_written(
    client: FlaskClient, services: Services, faulty: RedisProxy, *, known: bool
) -> None:
    before = _make_known(client, services) if known else []
    bucket = set(services.runtime.object_store.list(""))
    faulty.fault = Fault.DELAY
    _assert_refused(_send(client, key="order-17"))
    # Nothing is accepted, nothing stays, and the key is free.
    assert set(services.runtime.object_store.list("")) == bucket
    faulty.release()
    assert _run_all(services) == before
    assert services.runtime.job_store.dead() == []
    task_id = _id(_send(client, key="order-17"))
    assert sorted(_run_all(services)) == sorted([*before, task_id])


@pytest.mark.parametrize("known", [False, True])
def test_where_nothing_can_be_known_a_late_record_finds_its_pictures(
    client: FlaskClient, services: Services, faulty: RedisProxy, *, known: bool
) -> None:
    before = _make_known(client, services) if known else []
    bucket = set(services.runtime.object_store.list(""))
    faulty.fault = Fault.STALL
    _assert_refused(_send(client, key="order-17"))
    left = set(services.runtime.object_store.list("")) - bucket
    assert {key.partition("/")[0] for key in left} >= {"originals", "backgrounds"}
    # While nobody knows, the key stands for neither that task nor another one.
    with create_app(services).test_client() as beside:
        again = _send(beside, key="order-17")
        assert again.get_json()["error"]["type"] == "idempotency_in_progress"

    faulty.release()
    (task_id,) = {task_id_of_object(key) for key in left}
    assert sorted(_run_all(services)) == sorted([*before, task_id])
    assert _id(_send_until_answered(client, key="order-17")) == task_id


def test_a_refused_job_whose_pictures_could_not_be_removed_is_not_restored(
    client: FlaskClient, services: Services, faulty: RedisProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.submission.discard_object", lambda *_: None)
    faulty.fault = Fault.DELAY
    _assert_refused(_send(client))
    restorer = Restorer(
        services.runtime.job_store,
        services.runtime.object_store,
        services.runtime.dispatcher,
        services.runtime.router,
    )
    (lost,) = restorer.find().lost
    assert not restorer.restore(lost)
    assert services.runtime.job_store.ids(Status.QUEUED) == []


def test_a_batch_takes_part_in_none_of_that(
    client: FlaskClient, services: Services, faulty: RedisProxy
) -> None:
    faulty.fault = Fault.STALL
    body = {"images": [(io.BytesIO(_picture(each)), "a.png") for each in ("red", "blue")]}
    _assert_refused(client.post("/api/v1/remove-bg/batch", data=body))
    faulty.release()
    # A task of its own, which no batch waits for.
    (task_id,) = _run_all(services)
    job = services.runtime.job_store.get(task_id)
    assert job is not None
    assert job.original_key in set(services.runtime.object_store.list("originals/"))


def test_a_message_that_is_not_taken_holds_nobody_for_long(
    services: Services, proxy: tuple[RedisProxy, int]
) -> None:
    """The record stands by then: the job is accepted, and the reconciler will send it."""
    faulty, port = proxy
    parts = urlsplit(services.settings.redis_url.get_secret_value())
    address = parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}").geturl()
    settings = services.settings.model_copy(update={"redis_url": SecretStr(address)})
    dispatcher = Services.from_settings(settings).runtime.dispatcher
    faulty.marker, faulty.fault = b"LPUSH", Fault.STALL
    with create_app(with_parts(services, dispatcher=dispatcher)).test_client() as client:
        began = time.monotonic()
        task_id = _id(_send(client))
        assert time.monotonic() - began < 8
    assert faulty.met.is_set()
    assert services.runtime.job_store.ids(Status.QUEUED) == [task_id]
