"""The bucket, against a real S3 server."""

import io
import secrets
from datetime import UTC, datetime
from urllib.parse import unquote

import pytest
import urllib3
from minio.error import S3Error

from tasks.errors import (
    ObjectNotFoundError,
    ObjectStoreDeniedError,
    ObjectStoreFullError,
    ObjectStoreUnavailableError,
    TaskError,
)
from tasks.object_store import _PART_BYTES, ListedObject, ObjectStore, object_store_errors
from tasks.settings import Settings
from tests.support.serving import answer, serving

FULL, AWAY = ObjectStoreFullError, ObjectStoreUnavailableError


def _put(objects: ObjectStore, data: bytes) -> str:
    key = f"tests/{secrets.token_hex(8)}"
    objects.put(key, io.BytesIO(data), len(data), "image/png")
    return key


@pytest.mark.parametrize("size", [7, _PART_BYTES + 1])
def test_what_is_put_can_be_got_and_deleted(objects: ObjectStore, size: int) -> None:
    data = secrets.token_bytes(size)
    key = _put(objects, data)
    assert objects.get(key) == data
    objects.delete(key)
    with pytest.raises(ObjectNotFoundError):
        objects.get(key)
    objects.delete(key)


def test_a_signed_address_serves_the_object_under_a_file_name(objects: ObjectStore) -> None:
    url = objects.url(_put(objects, b"picture"), seconds=60, file_name='кот "№ 100%".png')
    got = urllib3.request("GET", url)
    assert (got.status, got.data) == (200, b"picture")
    sent, _, encoded = got.headers["Content-Disposition"].partition("; filename*=UTF-8''")
    assert sent == 'attachment; filename="___ __ 100__.png"'
    assert unquote(encoded) == 'кот "№ 100%".png'
    bare = url.split("?")[0]
    assert urllib3.request("GET", bare, retries=False).status == 403, "none without a signature"


def test_signed_addresses_carry_the_public_address(server_settings: dict[str, object]) -> None:
    public = {**server_settings, "s3_public_endpoint": "https://pictures.example.com"}
    store = ObjectStore.from_settings(Settings.load(**public))
    assert store.url("a", seconds=60).startswith(f"https://pictures.example.com/{store.bucket}/a?")


def test_metadata_comes_back_under_lower_case_names(objects: ObjectStore) -> None:
    text = '{"v":1,"options":{"matte_color":[1,2,3,4]},"name":"caf\\u00e9  two blanks"}'
    key = _put(objects, b"bare")
    assert objects.metadata(key) == {}
    named = {"metadata": {"rmbg-job": text}}
    objects.client.put_object(objects.bucket, key, io.BytesIO(b"x"), 1, **named)
    assert objects.metadata(key) == {"rmbg-job": text}
    objects.copy(key, key, media_type="image/png")
    assert objects.metadata(key) == {}
    with pytest.raises(ObjectNotFoundError):
        objects.metadata("tests/never-there")


def test_unfinished_uploads_are_listed_whatever_time_zone_the_store_has(
    server_settings: dict[str, object],
) -> None:
    begun = ("2026-11-28T14:17:58+05:45", "2026-11-28T08:32:58Z", "2026-11-28T08:32:58.000Z")
    uploads = "".join(
        f"<Upload><Key>uploads/a%2Bb</Key><UploadId>{number}</UploadId><Initiated>{each}</Initiated>"
        "</Upload>"
        for number, each in enumerate(begun)
    )
    listed = (
        f"<ListMultipartUploadsResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>{uploads}"
    )
    body = f"{listed}<EncodingType>url</EncodingType></ListMultipartUploadsResult>".encode()
    with serving(answer(200, body, Content_Type="application/xml")) as port:
        given = {**server_settings, "s3_endpoint": f"http://127.0.0.1:{port}"}
        found = ObjectStore.from_settings(Settings.load(**given)).list_multipart("uploads/")
    at = datetime(2026, 11, 28, 8, 32, 58, tzinfo=UTC)
    assert found == [ListedObject("uploads/a+b", at, number) for number in "012"]


@pytest.mark.parametrize(
    ("status", "code", "message", "kind", "said"),
    [
        (507, "XMinioStorageFull", "Storage backend has reached its minimum", FULL, None),
        (500, "InternalError", "cause(No space left on device)", FULL, None),
        (400, "XMinioAdminBucketQuotaExceeded", "", FULL, None),
        (403, "QuotaExceeded", "", FULL, None),
        (500, "InternalError", "try again", AWAY, "its disk may be full"),
        (403, "AccessDenied", "", ObjectStoreDeniedError, None),
        (400, "AuthorizationHeaderMalformed", "expecting 'x'", AWAY, "'x'.*RMBG_S3_REGION"),
        (400, "SignatureDoesNotMatch", "", AWAY, "RMBG_S3_SECRET_KEY"),
        (400, "SomethingElse", "", AWAY, "bucket policy"),
    ],
)
def test_a_full_store_is_told_from_one_that_refuses_and_says_what_to_do(
    status: int, code: str, message: str, kind: type[TaskError], said: str | None
) -> None:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    refusal = urllib3.HTTPResponse(body.encode(), status=status)
    with pytest.raises(kind, match=said) as raised, object_store_errors():
        raise S3Error.fromxml(refusal)
    assert type(raised.value) is kind
