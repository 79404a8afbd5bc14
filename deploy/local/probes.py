"""Is it ready? Each probe asks the process what its users will ask of it."""

import io
import json
import time
from collections.abc import Callable, Collection
from typing import Final
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.error import MinioException
from redis import Redis
from redis.exceptions import RedisError

from deploy.local.service import NotReadyError, Probe
from tasks import redis_keys
from tasks.settings import Settings

_SECONDS: Final = 2.0
_OK: Final = 200
_REGION: Final = "us-east-1"


def redis_answers(url: str) -> Probe:
    """PING is answered (a server that still loads its data refuses it)."""

    def probe(since: float) -> None:  # noqa: ARG001 - a probe's signature
        try:
            with _redis(url) as client:
                client.ping()
        except RedisError as error:
            raise NotReadyError(f"no PONG: {_last_line(error)}") from error

    return probe


def worker_ready(url: str, worker: str) -> Probe:
    """The worker's child has announced, since its start, that its model answered."""

    def probe(since: float) -> None:
        try:
            with _redis(url) as client:
                answered = client.get(redis_keys.ready_key(worker))
        except RedisError as error:
            raise NotReadyError(f"Redis does not answer: {_last_line(error)}") from error
        if answered is None or float(str(answered)) < since:
            raise NotReadyError("its model is not loaded yet")

    return probe


def worker_online(settings: Settings, worker: str) -> Probe:
    """A Celery worker answers the control command `ping`."""

    def probe(since: float) -> None:  # noqa: ARG001 - a probe's signature
        # Celery is slow to import, and only this probe needs it.
        from tasks.app import create_celery  # noqa: PLC0415 - see above

        with create_celery(settings) as app:
            try:
                answers = app.control.ping(destination=[worker], timeout=_SECONDS, limit=1)
            except (OSError, RedisError) as error:
                raise NotReadyError(f"Redis does not answer: {_last_line(error)}") from error
        if not answers:
            raise NotReadyError("it does not answer a ping yet")

    return probe


def flower_sees(url: str, workers: Collection[str]) -> Probe:
    """Flower has received events of all these workers."""

    def check(body: str) -> None:
        missing = [
            name for name in workers if f'flower_worker_online{{worker="{name}"}} 1' not in body
        ]
        if missing:
            raise NotReadyError(f"it has received no event of {', '.join(missing)} yet")

    return http_shows(f"{url}/metrics", check)


def store_writes(endpoint: str, access_key: str, secret_key: str, bucket: str) -> Probe:
    """An object can be put and removed.

    A signed list is answered seconds before the store has a volume to write to.
    """
    client = _minio(endpoint, access_key, secret_key)

    def attempt() -> None:
        if not client.bucket_exists(bucket):
            client.make_bucket(bucket)
        client.put_object(bucket, ".ready", io.BytesIO(b"ready"), length=5)
        client.remove_object(bucket, ".ready")

    return _store_probe(attempt)


def store_answers(endpoint: str, access_key: str, secret_key: str, bucket: str) -> Probe:
    """Somebody else's store takes our keys; nothing is written to it."""
    client = _minio(endpoint, access_key, secret_key)
    return _store_probe(lambda: client.bucket_exists(bucket))


def http_ok(url: str) -> Probe:
    """A GET is answered with 200."""
    return http_shows(url, lambda _body: None)


def http_shows(url: str, check: Callable[[str], None]) -> Probe:
    """A GET is answered with 200, and the body passes a check, which raises `NotReadyError`."""

    def probe(since: float) -> None:  # noqa: ARG001 - a probe's signature
        try:
            answer = urllib3.request("GET", url, timeout=_SECONDS, retries=False)
        except urllib3.exceptions.HTTPError as error:
            raise NotReadyError(f"{urlsplit(url).path} is not answered yet") from error
        if answer.status != _OK:
            raise NotReadyError(f"{urlsplit(url).path} says {answer.status}: {_reason(answer)}")
        check(answer.data.decode())

    return probe


def wait_until(probe: Probe, *, since: float, seconds: float, interval: float = 0.1) -> None:
    """Ask until it is ready.

    Raises:
        NotReadyError: with the last answer, after so many seconds.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            return probe(since)
        except NotReadyError:
            if time.monotonic() > end:
                raise
            time.sleep(interval)


def _redis(url: str) -> Redis:
    return Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=_SECONDS,
        socket_connect_timeout=_SECONDS,
        retry=None,
    )


def _minio(endpoint: str, access_key: str, secret_key: str) -> Minio:
    address = urlsplit(endpoint)
    return Minio(
        address.netloc,
        access_key=access_key or None,
        secret_key=secret_key or None,
        secure=address.scheme == "https",
        region=_REGION,
        http_client=urllib3.PoolManager(timeout=_SECONDS, retries=False),
    )


def _store_probe(attempt: Callable[[], object]) -> Probe:
    def probe(since: float) -> None:  # noqa: ARG001 - a probe's signature
        try:
            attempt()
        except (MinioException, urllib3.exceptions.HTTPError) as error:
            raise NotReadyError(f"the store does not answer: {_last_line(error)}") from error

    return probe


def _reason(answer: urllib3.BaseHTTPResponse) -> str:
    try:
        return str(json.loads(answer.data)["message"])
    except (ValueError, KeyError, TypeError):
        return (answer.reason or "").strip()


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
