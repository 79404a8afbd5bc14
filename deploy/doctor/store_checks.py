"""The object store: can pictures be written, read and removed, and do signed addresses work?"""

import io
import secrets
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Final

import urllib3

from deploy.doctor.findings import Finding, fail, ok, warn
from tasks.errors import TaskError
from tasks.settings import Settings
from tasks.storage import ObjectStore

_SECONDS: Final = 5.0
#: S3 refuses requests whose clock is off by 15 minutes.
_MOST_SKEW_SECONDS: Final = 900
_SKEW_SECONDS: Final = 60
_OK: Final = 200


def check_store(objects: ObjectStore, settings: Settings) -> Iterator[Finding]:
    """Bucket, write, read, delete, signed address, clock."""
    place = f"{settings.s3_endpoint}{settings.s3_bucket}"
    try:
        objects.ping()
    except TaskError as error:
        yield fail(
            "store.bucket",
            f"{place}: {error}",
            "start the store, correct RMBG_S3_ENDPOINT and the keys, or make the bucket",
        )
        return
    yield ok("store.bucket", f"{place} is there")
    yield from _objects(objects)
    yield _clock(str(settings.s3_endpoint))


def _objects(objects: ObjectStore) -> Iterator[Finding]:
    key, data = f"doctor/{secrets.token_hex(8)}", secrets.token_bytes(1024)
    began = time.perf_counter()
    try:
        objects.put(key, io.BytesIO(data), len(data), "application/octet-stream")
        try:
            whole = objects.get(key) == data
            signed = _signed(objects, key)
        finally:
            objects.delete(key)
    except TaskError as error:
        yield fail("store.objects", str(error), "let the keys put, get and delete objects there")
        return
    milliseconds = (time.perf_counter() - began) * 1000
    if not whole:
        yield fail("store.objects", "what was read is not what was written", "look at the store")
        return
    yield ok("store.objects", f"written, read and deleted in {milliseconds:.0f} ms")
    yield signed


def _signed(objects: ObjectStore, key: str) -> Finding:
    advice = "set RMBG_S3_PUBLIC_ENDPOINT to the store's address as clients reach it"
    try:
        answer = urllib3.request(
            "GET", objects.url(key, seconds=60), timeout=_SECONDS, retries=False
        )
    except urllib3.exceptions.HTTPError as error:
        text = f"signed addresses do not work from here: {type(error).__name__}"
        return warn("store.signed", text, advice)
    if answer.status != _OK:
        return warn("store.signed", f"a signed address answered {answer.status}", advice)
    return ok("store.signed", "signed addresses work from here")


def _clock(endpoint: str) -> Finding:
    try:
        answer = urllib3.request("GET", endpoint, timeout=_SECONDS, retries=False, redirect=False)
        skew = time.time() - parsedate_to_datetime(answer.headers["Date"]).timestamp()
    except (urllib3.exceptions.HTTPError, KeyError, ValueError):
        return ok("store.clock", "the store does not tell its time")
    text = f"{abs(skew):.0f} s between this clock and the store's"
    if abs(skew) > _MOST_SKEW_SECONDS:
        return fail("store.clock", text, "set the clock: S3 refuses such requests")
    if abs(skew) > _SKEW_SECONDS:
        return warn("store.clock", text, "set the clock, by NTP for example")
    return ok("store.clock", text)
