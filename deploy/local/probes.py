"""Readiness probes: each sends a process the kind of request that its users will send.

A probe returns if the process is ready, and raises `NotReadyError` with the reason if not.
"""

import io
import json
import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.error import MinioException
from redis import Redis
from redis.exceptions import RedisError

from deploy.local.service import NotReadyError, Probe
from tasks import redis_keys
from tasks.errors import ObjectNotFoundError, ObjectStoreUnavailableError
from tasks.object_store import impatient_client, object_store_errors
from tasks.redis_address import RedisAddress
from tasks.redis_client import connect
from tasks.s3_access import DEFAULT_REGION, NO_STORE, is_denied
from tasks.settings import Settings

_TIMEOUT_SECONDS: Final = 2.0
_HTTP_OK: Final = 200
_STORE_ERRORS: Final = (MinioException, urllib3.exceptions.HTTPError)


def redis_answers(url: str) -> Probe:
    """Make a probe that sends a PING, which a server that is still loading its data refuses."""

    def probe(since: float) -> None:  # noqa: ARG001 - a probe's signature
        with (
            _not_ready("no answer to PING", RedisError),
            _client(url) as client,
        ):
            client.ping()

    return probe


def worker_ready(where: RedisAddress | str, worker: str) -> Probe:
    """Make a probe that passes once a worker's child has announced, since its start, its model."""

    def probe(since: float) -> None:
        with (
            _not_ready("Redis does not answer", RedisError),
            _client(where) as client,
        ):
            announced_at = client.get(redis_keys.ready_key(worker))
        if announced_at is None or float(str(announced_at)) < since:
            raise NotReadyError("its model is not loaded yet")

    return probe


def worker_online(settings: Settings, worker: str) -> Probe:
    """Make a probe that sends a Celery worker the control command `ping`."""

    def probe(since: float) -> None:  # noqa: ARG001 - a probe's signature
        # Celery is slow to import, and only this probe needs it.
        from kombu.exceptions import OperationalError  # noqa: PLC0415 - see above

        from tasks.app import create_celery  # noqa: PLC0415 - see above

        with (
            create_celery(settings) as app,
            _not_ready("Redis does not answer", OSError, RedisError, OperationalError),
        ):
            answers = app.control.ping(destination=[worker], timeout=_TIMEOUT_SECONDS, limit=1)
        if not answers:
            raise NotReadyError("it does not answer a ping yet")

    return probe


def flower_sees(url: str, workers: Collection[str]) -> Probe:
    """Make a probe that passes once Flower has received events of all these workers."""

    def check(body: str) -> None:
        missing = [
            name for name in workers if f'flower_worker_online{{worker="{name}"}} 1' not in body
        ]
        if missing:
            raise NotReadyError(f"it has received no event of {', '.join(missing)} yet")

    return http_ok(f"{url}/metrics", check)


def http_ok(url: str, check: Callable[[str], None] | None = None) -> Probe:
    """Make a probe that passes when a GET is answered with 200, and its body passes `check`."""

    def probe(since: float) -> None:  # noqa: ARG001 - a probe's signature
        path = urlsplit(url).path
        try:
            response = urllib3.request("GET", url, timeout=_TIMEOUT_SECONDS, retries=False)
        except urllib3.exceptions.HTTPError as error:
            raise NotReadyError(f"{path} is not answered yet") from error
        if response.status != _HTTP_OK:
            raise NotReadyError(
                f"{path} is answered with {response.status}: {_error_message(response)}"
            )
        if check:
            check(response.data.decode())

    return probe


def object_store_writable(endpoint: str, access_key: str, secret_key: str, bucket: str) -> Probe:
    """Make a probe that creates the bucket, if need be, and writes and removes an object.

    SeaweedFS answers a list of buckets seconds before it has a volume to write to.
    """
    client = Minio(
        urlsplit(endpoint).netloc,
        access_key=access_key,
        secret_key=secret_key,
        secure=False,
        region=DEFAULT_REGION,
        http_client=urllib3.PoolManager(timeout=_TIMEOUT_SECONDS, retries=False),
    )

    def probe(since: float) -> None:  # noqa: ARG001 - a probe's signature
        with _not_ready("the object store does not answer", *_STORE_ERRORS):
            if not client.bucket_exists(bucket):
                client.make_bucket(bucket)
            client.put_object(bucket, ".ready", io.BytesIO(b"ready"), length=5)
            client.remove_object(bucket, ".ready")

    return probe


def object_store_answers(settings: Settings) -> Probe:
    """Make a probe that checks the endpoint and the keys of a user's own store.

    It creates the bucket if it is missing, as the API would. The question for the bucket is
    answered without a body, and so by any server: that for an object which is not there only by a
    store, which also says there what is wrong with the keys.
    """
    client, bucket = impatient_client(settings, _TIMEOUT_SECONDS), settings.s3_bucket

    def exists() -> bool:
        try:
            return client.bucket_exists(bucket)
        except MinioException as error:
            if not is_denied(error):
                raise
            return True

    def probe(since: float) -> None:  # noqa: ARG001 - a probe's signature
        try:
            with object_store_errors():
                if not exists():
                    client.make_bucket(bucket)
                client.get_object(bucket, f".absent-{secrets.token_hex(8)}").close()
        except ObjectNotFoundError:
            return
        except ObjectStoreUnavailableError as error:
            raise NotReadyError(str(error)) from error
        raise NotReadyError(NO_STORE)

    return probe


@contextmanager
def _not_ready(what: str, *errors: type[Exception]) -> Iterator[None]:
    """Raise one of these errors as `NotReadyError`, with its last line behind `what`."""
    try:
        yield
    except errors as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise NotReadyError(f"{what}: {reason}") from error


def _client(where: RedisAddress | str) -> Redis:
    return connect(where, timeout=_TIMEOUT_SECONDS)


def _error_message(response: urllib3.BaseHTTPResponse) -> str:
    try:
        return str(json.loads(response.data)["message"])
    except (ValueError, KeyError, TypeError):
        return (response.reason or "").strip()
