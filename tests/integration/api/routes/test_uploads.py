"""tus 1.0.0 by the letter, with real Redis and S3."""

import base64
import hashlib
import io
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NoReturn

import pytest
from werkzeug.test import TestResponse

from tasks.api_keys import ANONYMOUS
from tasks.errors import QueueUnavailableError
from tasks.object_store import UPLOAD_OBJECTS, manifest_key, upload_prefix
from tasks.redis_keys import upload_lock_key
from tasks.uploads.service import UploadWriter
from tasks.uploads.store import PART_BYTES, UploadStore
from tests.support.api import Api
from tests.support.clock import until
from tests.support.hostile_pictures import many_tags
from tests.support.stores import WatchedStore
from tests.support.submissions import PATH, refusal

SETTINGS = {"max_image_mb": 12}

TUS = {"Tus-Resumable": "1.0.0"}
PIECE = {**TUS, "Content-Type": "application/offset+octet-stream"}
UPLOADS = "/api/v1/uploads"
MB = 2**20


def _begin(api: Api, length: int, **more: str) -> str:
    answer = api.post(UPLOADS, headers={**TUS, "Upload-Length": str(length), **more})
    assert answer.status_code == 201, answer.text
    return str(answer.headers["Location"]).removeprefix("http://localhost")


def _replayed(answer: TestResponse) -> str:
    assert answer.status_code == 201, answer.text
    assert answer.headers["Idempotency-Replayed"] == "true"
    return str(answer.headers["Location"]).removeprefix("http://localhost")


def test_a_creation_whose_answer_was_lost_finds_its_upload_by_its_key(api: Api) -> None:
    key = {"Idempotency-Key": "k"}
    again = {"headers": {**TUS, "Upload-Length": "7", **key}}
    url, other = _begin(api, 7, **key), _begin(api, 7)
    assert _replayed(api.post(UPLOADS, **again)) == url != other
    assert api.runtime.quotas.usage(ANONYMOUS).bytes == 2 * 7
    # A first chunk is taken as long as nothing has come.
    first = {"data": b"abc", "headers": {**again["headers"], **PIECE}}
    assert _replayed(api.post(UPLOADS, **first)) == url
    assert refusal(api.post(UPLOADS, **first)) == (409, "upload_offset_mismatch")
    answer = api.post(UPLOADS, **again)
    assert (_replayed(answer), answer.headers["Upload-Offset"]) == (url, "3")
    for headers in ({"Upload-Length": "8"}, {"Upload-Length": "7", "Upload-Metadata": "name"}):
        refused = api.post(UPLOADS, headers={**TUS, **key, **headers})
        assert refusal(refused) == (422, "idempotency_mismatch")
    assert api.delete(url, headers=TUS).status_code == 204
    assert refusal(api.post(UPLOADS, **again)) == (410, "gone")


def test_a_key_is_kept_with_the_upload_that_it_made(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = api.runtime.uploads.store.create

    def lose_the_answer(*given: Any, **more: Any) -> NoReturn:  # noqa: ANN401 - those of `create`
        create(*given, **more)
        raise QueueUnavailableError("away")

    headers = {**TUS, "Upload-Length": "0", "Idempotency-Key": "k"}
    with monkeypatch.context() as patch:
        patch.setattr(UploadStore, "create", staticmethod(lose_the_answer))
        assert refusal(api.post(UPLOADS, headers=headers)) == (503, "queue_unavailable")
    assert _whole(api, _replayed(api.post(UPLOADS, headers=headers))) == b""


def _add(api: Api, url: str, offset: int, data: bytes, **more: str) -> TestResponse:
    return api.patch(url, data=data, headers={**PIECE, "Upload-Offset": str(offset), **more})


def _offset(api: Api, url: str) -> int:
    return int(api.head(url, headers=TUS).headers["Upload-Offset"])


def _whole(api: Api, url: str) -> bytes:
    chunks, _ = api.runtime.uploads.open("", _id(url))
    return b"".join(chunks)


def _id(url: str) -> str:
    return url.rpartition("/")[2]


def _bytes(count: int) -> bytes:
    return random.Random(count).randbytes(count)


def _checksum(data: bytes, algorithm: str = "sha1") -> dict[str, str]:
    digest = base64.b64encode(hashlib.new(algorithm, data).digest()).decode()
    return {"Upload-Checksum": f"{algorithm} {digest}"}


def _assert_left(api: Api, url: str, names: list[str]) -> None:
    """An upload has these objects, and nothing of its making."""
    prefix, store = upload_prefix(_id(url)), api.objects
    assert list(store.list(prefix)) == [prefix + name for name in names]
    assert not [each for each in store.list_multipart(UPLOAD_OBJECTS) if _id(url) in each.key]


def test_every_request_must_name_the_version_and_options_say_it(api: Api) -> None:
    url = _begin(api, 5)
    for path in (UPLOADS, url):
        headers = api.options(path).headers
        assert (headers["Tus-Version"], headers["Tus-Max-Size"]) == ("1.0.0", str(12 * MB))
        extensions = {"creation", "creation-with-upload", "expiration", "termination", "checksum"}
        assert set(headers["Tus-Extension"].split(",")) == extensions
        assert "sha1" in headers["Tus-Checksum-Algorithm"].split(",")
    for answer in (
        api.post(UPLOADS, headers={"Upload-Length": "5"}),
        api.head(url),
        api.patch(url, data=b"12345"),
        api.delete(url, headers={"Tus-Resumable": "0.2.2"}),
    ):
        assert answer.status_code == 412
        assert (answer.headers["Tus-Version"], answer.headers["Tus-Resumable"]) == ("1.0.0",) * 2
    assert _offset(api, url) == 0


@pytest.mark.parametrize(
    ("algorithm", "sizes"),
    [
        ("sha1", [0]),
        ("md5", [1, 0, 1, 1]),
        ("sha256", [PART_BYTES]),
        ("sha512", [PART_BYTES - 1, 2, PART_BYTES - 1]),
        ("sha1", [11 * MB + 17]),
    ],
)
def test_pieces_of_any_size_make_the_file(api: Api, algorithm: str, sizes: list[int]) -> None:
    data, at = _bytes(sum(sizes)), 0
    url = _begin(api, len(data))
    for size in sizes:
        piece = data[at : at + size]
        if size:  # of another content, too: parts of it must not stay
            answer = _add(api, url, at, bytes(size), **_checksum(b"other"))
            assert refusal(answer) == (460, "checksum_mismatch")
            assert _offset(api, url) == at
        answer = _add(api, url, at, piece, **_checksum(piece, algorithm))
        assert answer.status_code == 204, answer.text
        at += size
        assert answer.headers["Upload-Offset"] == str(at)
    assert _whole(api, url) == data
    _assert_left(api, url, ["whole"])


def test_an_upload_begins_with_a_length_up_to_the_limit(api: Api) -> None:
    refused: list[tuple[int, dict[str, str]]] = [
        (400, {}),
        (400, {"Upload-Length": "-1"}),
        (400, {"Upload-Length": "9" * 30}),
        (400, {"Upload-Defer-Length": "1"}),
        (400, {"Upload-Length": "5", "Upload-Metadata": "name not*base64"}),
        (413, {"Upload-Length": str(12 * MB + 1)}),
    ]
    for status, given in refused:
        assert api.post(UPLOADS, headers={**TUS, **given}).status_code == status, given
    # HEAD tells how it stands.
    metadata = "filename Y2F0LmpwZw==,private"
    headers = api.head(_begin(api, 12 * MB, **{"Upload-Metadata": metadata}), headers=TUS).headers
    assert (headers["Upload-Offset"], headers["Upload-Length"]) == ("0", str(12 * MB))
    assert headers["Upload-Metadata"] == metadata
    assert headers["Cache-Control"] == "no-store"
    assert headers["Upload-Expires"].endswith(" GMT")


def test_a_piece_that_does_not_fit_is_refused_whole(api: Api) -> None:
    url = _begin(api, 5)
    _add(api, url, 0, b"abc")
    for data, headers, status, kind in (
        (b"abc", {"Upload-Offset": "0"}, 409, "upload_offset_mismatch"),
        (b"e", {"Upload-Offset": "4"}, 409, "upload_offset_mismatch"),
        (b"de", {"Upload-Offset": "x"}, 400, "bad_request"),
        (b"de", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        (b"def", dict[str, str](), 413, "upload_too_long"),
        (b"de", {"Upload-Checksum": "crc32 AAAA"}, 400, "bad_request"),
        (b"de", {"Upload-Checksum": "sha1 é"}, 400, "bad_request"),
        (b"de", {"Upload-Checksum": "sha1"}, 460, "checksum_mismatch"),
    ):
        answer = _add(api, url, 3, data, **headers)
        assert refusal(answer) == (status, kind)
        assert answer.headers["Tus-Resumable"] == "1.0.0"
        assert _offset(api, url) == 3


@pytest.mark.parametrize(
    ("state", "status", "kind"),
    [
        ("expired", 410, "upload_expired"),
        ("ended", 404, "upload_not_found"),
        ("none", 404, "upload_not_found"),
    ],
)
def test_an_upload_that_has_expired_ended_or_never_was_is_gone(
    api: Api, state: str, status: int, kind: str
) -> None:
    uploads = api.runtime.uploads
    url = f"{UPLOADS}/up-{'2' * 20}" if state == "none" else _begin(api, 7 * MB)
    if state == "ended":
        _add(api, url, 0, _bytes(6 * MB))
        assert api.delete(url, headers=TUS).status_code == 204
        _assert_left(api, url, [])
    elif state == "expired":
        late = api.services.clock() + uploads.seconds + 1
        api = api.with_parts(uploads=replace(uploads, clock=lambda: late))
    assert api.head(url, headers=TUS).status_code == status
    assert refusal(_add(api, url, 0, b"abcde")) == (status, kind)
    assert api.error("DELETE", url, headers=TUS) == (status, kind)


def test_the_first_piece_may_come_along_and_post_may_stand_for_patch_and_delete(api: Api) -> None:
    answer = api.post(UPLOADS, data=b"abc", headers={**PIECE, "Upload-Length": "5"})
    assert (answer.status_code, answer.headers["Upload-Offset"]) == (201, "3")
    url = answer.headers["Location"].removeprefix("http://localhost")
    headers = {**PIECE, "Upload-Offset": "3", "X-HTTP-Method-Override": "PATCH"}
    answer = api.post(url, data=b"de", headers=headers)
    assert (answer.status_code, answer.headers["Upload-Offset"]) == (204, "5")
    assert _whole(api, url) == b"abcde"
    assert api.post(url, headers=TUS).status_code == 405
    override = {**TUS, "X-HTTP-Method-Override": "DELETE"}
    assert api.post(url, headers=override).status_code == 204
    assert api.head(url, headers=TUS).status_code == 404


@pytest.fixture
def _quick_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.uploads.store._LOCK_RENEW_SECONDS", 0.03)
    monkeypatch.setattr("tasks.uploads.store._LOCK_IDLE_SECONDS", 0.1)


class _Body:
    """A client that sends a little, and then nothing until it is let go."""

    def __init__(self, data: bytes, more: Callable[[], bytes]) -> None:
        self._stream = io.BytesIO(data)
        self._more = more

    def read(self, size: int, /) -> bytes:
        return self._stream.read(size) or self._more()


@pytest.mark.usefixtures("_quick_locks")
def test_a_later_request_takes_over_from_one_whose_client_is_gone(api: Api) -> None:
    data = _bytes(6 * MB)
    url = _begin(api, len(data))
    silent, gone = threading.Event(), threading.Event()

    def nothing() -> bytes:
        silent.set()
        gone.wait(60)
        return b""

    def send() -> None:
        with pytest.raises(Exception, match="Another request"):
            api.runtime.uploads.append("", _id(url), 0, _Body(data[: 5 * MB + 9], nothing))

    old = threading.Thread(target=send)
    old.start()
    assert silent.wait(30)
    # Whole parts were kept at once; the rest was in the hands of the request that hangs.
    assert _offset(api, url) == PART_BYTES
    assert _add(api, url, PART_BYTES, data[PART_BYTES:]).status_code == 204
    # The old one wakes up and would write what it has: it may not.
    gone.set()
    old.join(30)
    assert not old.is_alive()
    assert _whole(api, url) == data


@pytest.mark.usefixtures("_quick_locks")
def test_two_writers_never_interleave(api: Api) -> None:
    url = _begin(api, 5)
    lock = api.runtime.uploads.store.lock
    with lock(_id(url)), pytest.raises(Exception, match="Another request"):
        # The first is alive and does not wait for its client: it is not pushed aside.
        lock(_id(url), wait_seconds=0.3).__enter__()
    # The next one is not asked to stop by what was asked of that one.
    with lock(_id(url)) as held:
        api.redis.pexpire(upload_lock_key(_id(url)), 2000)
        until(lambda: api.redis.pttl(upload_lock_key(_id(url))) > 2000)
        assert not held.takeover_requested
    assert _add(api, url, 0, b"abcde").status_code == 204


def test_a_process_that_died_between_completing_and_recording(api: Api) -> None:
    data, uploads = _bytes(7 * MB), api.runtime.uploads
    url = _begin(api, len(data))
    _add(api, url, 0, data[: 6 * MB])
    upload = uploads.store.get(_id(url))
    assert upload is not None
    last = uploads.object_store.put_part(upload.key, upload.multipart_id, 2, data[PART_BYTES:])
    uploads.object_store.complete_multipart(upload.key, upload.multipart_id, [*upload.etags, last])
    assert _offset(api, url) == 6 * MB
    assert _add(api, url, 6 * MB, data[6 * MB :]).status_code == 204
    assert _whole(api, url) == data


def test_a_process_that_died_between_the_last_part_and_completing(api: Api) -> None:
    data, uploads = _bytes(2 * PART_BYTES), api.runtime.uploads
    url = _begin(api, len(data))

    def dies() -> Iterator[bytes]:
        yield data
        raise SystemExit

    upload = uploads.store.get(_id(url))
    assert upload is not None
    with uploads.store.lock(_id(url)) as lock, pytest.raises(SystemExit):
        UploadWriter(uploads.store, uploads.object_store, upload, lock.token).append(dies())
    # Else its client would take it for complete.
    assert (offset := _offset(api, url)) < len(data)
    assert _add(api, url, offset, data[offset:]).status_code == 204
    assert _whole(api, url) == data


def test_a_finished_upload_can_be_submitted_and_is_fetched_once_however_it_is_read(
    api: Api,
) -> None:
    picture = many_tags(400, 9, far=9 * MB)
    url = _begin(api, len(picture), **{"Upload-Metadata": "filename Y3VwLmpwZw=="})
    submission = {"upload_id": _id(url)}
    assert api.error("POST", PATH, json=submission) == (409, "upload_unfinished")
    _add(api, url, 0, picture)
    store = WatchedStore(api.objects)
    job = api.accepted(api.with_parts(object_store=store).post(PATH, json=submission))
    assert job.file_stem == "cup"
    key = f"{upload_prefix(_id(url))}whole"
    assert store.calls[:2] == [("chunks", key), ("copy", key, job.original_key)]
    assert store.named("put") == [manifest_key(job.task_id)]
