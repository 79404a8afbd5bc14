"""tus 1.0.0 by the letter, with real Redis and S3."""

import base64
import hashlib
import io
import random
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from werkzeug.test import TestResponse

from tasks.object_store import UPLOAD_OBJECTS, manifest_key, upload_prefix
from tasks.uploads.store import PART_BYTES
from tests.support.api import Api
from tests.support.hostile_pictures import many_tags
from tests.support.stores import WatchedStore
from tests.support.submissions import PATH, PICTURE, refusal

SETTINGS = {"max_image_mb": 12}

TUS = {"Tus-Resumable": "1.0.0"}
PIECE = {**TUS, "Content-Type": "application/offset+octet-stream"}
UPLOADS = "/api/v1/uploads"
MB = 2**20


def _begin(api: Api, length: int, **more: str) -> str:
    answer = api.post(UPLOADS, headers={**TUS, "Upload-Length": str(length), **more})
    assert answer.status_code == 201, answer.text
    return str(answer.headers["Location"]).removeprefix("http://localhost")


def _add(api: Api, url: str, offset: int, data: bytes, **more: str) -> TestResponse:
    return api.patch(url, data=data, headers={**PIECE, "Upload-Offset": str(offset), **more})


def _offset(api: Api, url: str) -> int:
    answer = api.head(url, headers=TUS)
    assert answer.status_code == 200
    return int(answer.headers["Upload-Offset"])


def _whole(api: Api, url: str) -> bytes:
    chunks, _ = api.runtime.uploads.open("", _id(url))
    return b"".join(chunks)


def _id(url: str) -> str:
    return url.rpartition("/")[2]


def _bytes(count: int) -> bytes:
    return random.Random(count).randbytes(count)


def _type(answer: TestResponse) -> tuple[int, str]:
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    return refusal(answer)


def _checksum(data: bytes, algorithm: str = "sha1") -> dict[str, str]:
    digest = base64.b64encode(hashlib.new(algorithm, data).digest()).decode()
    return {"Upload-Checksum": f"{algorithm} {digest}"}


def _assert_left(api: Api, url: str, names: list[str]) -> None:
    """An upload has these objects, and nothing of its making."""
    prefix, store = upload_prefix(_id(url)), api.objects
    assert list(store.list(prefix)) == [prefix + name for name in names]
    assert not [each for each in store.list_multipart(UPLOAD_OBJECTS) if _id(url) in each.key]


@pytest.mark.parametrize("path", ["", "/up-anything"])
def test_options_say_what_the_server_can_do(api: Api, path: str) -> None:
    answer = api.options(UPLOADS + path)
    assert answer.status_code == 204
    assert answer.headers["Tus-Version"] == "1.0.0"
    assert answer.headers["Tus-Max-Size"] == str(12 * MB)
    extensions = {"creation", "creation-with-upload", "expiration", "termination", "checksum"}
    assert set(answer.headers["Tus-Extension"].split(",")) == extensions
    assert "sha1" in answer.headers["Tus-Checksum-Algorithm"].split(",")


def test_every_request_must_name_the_version(api: Api) -> None:
    url = _begin(api, 5)
    answers = [
        api.post(UPLOADS, headers={"Upload-Length": "5"}),
        api.head(url),
        api.patch(url, data=b"12345"),
        api.delete(url, headers={"Tus-Resumable": "0.2.2"}),
    ]
    for answer in answers:
        assert answer.status_code == 412
        assert answer.headers["Tus-Version"] == "1.0.0"
        assert answer.headers["Tus-Resumable"] == "1.0.0"
    assert _offset(api, url) == 0


@pytest.mark.parametrize(
    "sizes", [[0], [1, 1, 1], [PART_BYTES], [PART_BYTES - 1, 2, PART_BYTES - 1], [11 * MB + 17]]
)
def test_pieces_of_any_size_make_the_file(api: Api, sizes: list[int]) -> None:
    data = _bytes(sum(sizes))
    url = _begin(api, len(data))
    at = 0
    for size in sizes:
        answer = _add(api, url, at, data[at : at + size])
        assert answer.status_code == 204, answer.text
        at += size
        assert answer.headers["Upload-Offset"] == str(at)
        assert _offset(api, url) == at
    assert _whole(api, url) == data
    _assert_left(api, url, ["whole"])


def test_head_tells_how_it_stands(api: Api) -> None:
    metadata = "filename Y2F0LmpwZw==,private"
    url = _begin(api, 9, **{"Upload-Metadata": metadata})
    headers = api.head(url, headers=TUS).headers
    assert (headers["Upload-Offset"], headers["Upload-Length"]) == ("0", "9")
    assert headers["Upload-Metadata"] == metadata
    assert headers["Cache-Control"] == "no-store"
    assert headers["Upload-Expires"].endswith(" GMT")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 400),
        ({"Upload-Length": "-1"}, 400),
        ({"Upload-Length": "many"}, 400),
        ({"Upload-Length": "9" * 30}, 400),
        ({"Upload-Defer-Length": "1"}, 400),
        ({"Upload-Length": "5", "Upload-Metadata": "name not*base64"}, 400),
        ({"Upload-Length": str(12 * MB + 1)}, 413),
        ({"Upload-Length": str(12 * MB)}, 201),
    ],
)
def test_an_upload_begins_with_a_length_up_to_the_limit(
    api: Api, headers: dict[str, str], status: int
) -> None:
    assert api.post(UPLOADS, headers={**TUS, **headers}).status_code == status


@pytest.mark.parametrize(
    ("data", "headers", "status", "kind"),
    [
        (b"abc", {"Upload-Offset": "0"}, 409, "upload_offset_mismatch"),
        (b"e", {"Upload-Offset": "4"}, 409, "upload_offset_mismatch"),
        (b"de", {"Upload-Offset": "x"}, 400, "bad_request"),
        (b"de", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        (b"def", {}, 413, "upload_too_long"),
        (b"de", {"Upload-Checksum": "crc32 AAAA"}, 400, "bad_request"),
        (b"de", {"Upload-Checksum": "sha1 not*base64"}, 400, "bad_request"),
        (b"de", {"Upload-Checksum": "sha1 é"}, 400, "bad_request"),
        (b"de", {"Upload-Checksum": "sha1"}, 460, "checksum_mismatch"),
        (b"de", _checksum(b"other"), 460, "checksum_mismatch"),
    ],
)
def test_a_piece_that_does_not_fit_is_refused_whole(
    api: Api, data: bytes, headers: dict[str, str], status: int, kind: str
) -> None:
    url = _begin(api, 5)
    _add(api, url, 0, b"abc")
    assert _type(_add(api, url, 3, data, **headers)) == (status, kind)
    assert _offset(api, url) == 3


@pytest.mark.parametrize(("algorithm", "size"), [("sha1", 6 * MB), ("sha256", 9), ("md5", 9)])
def test_a_checksum_that_fits(api: Api, algorithm: str, size: int) -> None:
    data = _bytes(size)
    url = _begin(api, size)
    assert _add(api, url, 0, data, **_checksum(data, algorithm)).status_code == 204
    assert _whole(api, url) == data


def test_a_checksum_that_does_not_fit_discards_that_piece_alone(api: Api) -> None:
    data = _bytes(7 * MB)
    url = _begin(api, len(data))
    _add(api, url, 0, data[:MB])
    # Of another content, too: parts of it must not stay.
    assert _add(api, url, MB, bytes(6 * MB), **_checksum(b"other")).status_code == 460
    assert _offset(api, url) == MB
    assert _add(api, url, MB, data[MB:]).status_code == 204
    assert _whole(api, url) == data


def test_an_ended_upload_is_gone(api: Api) -> None:
    url = _begin(api, 7 * MB)
    _add(api, url, 0, _bytes(6 * MB))
    assert api.delete(url, headers=TUS).status_code == 204
    assert api.head(url, headers=TUS).status_code == 404
    _assert_left(api, url, [])


@pytest.mark.parametrize(
    ("known", "status", "kind"), [(True, 410, "upload_expired"), (False, 404, "upload_not_found")]
)
def test_an_upload_that_has_expired_or_never_was_is_gone(
    api: Api, *, known: bool, status: int, kind: str
) -> None:
    uploads = api.runtime.uploads
    url = _begin(api, 5) if known else f"{UPLOADS}/up-{'2' * 20}"
    moved = replace(uploads, clock=lambda: api.services.clock() + uploads.seconds + 1)
    later = api.with_parts(uploads=moved)
    assert later.head(url, headers=TUS).status_code == status
    assert _type(_add(later, url, 0, b"abcde")) == (status, kind)
    assert _type(later.delete(url, headers=TUS)) == (status, kind)


def test_the_first_piece_may_come_along_and_post_may_stand_for_patch_and_delete(api: Api) -> None:
    answer = api.post(UPLOADS, data=b"abc", headers={**PIECE, "Upload-Length": "5"})
    assert (answer.status_code, answer.headers["Upload-Offset"]) == (201, "3")
    url = answer.headers["Location"].removeprefix("http://localhost")
    headers = {**PIECE, "Upload-Offset": "3", "X-HTTP-Method-Override": "PATCH"}
    assert api.post(url, data=b"de", headers=headers).status_code == 204
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
    assert _add(api, url, 0, b"abcde").status_code == 204


def test_a_process_that_died_between_completing_and_recording(api: Api) -> None:
    data = _bytes(7 * MB)
    url = _begin(api, len(data))
    _add(api, url, 0, data[: 6 * MB])
    uploads = api.runtime.uploads
    upload = uploads.store.get(_id(url))
    assert upload is not None
    last = uploads.object_store.put_part(upload.key, upload.multipart_id, 2, data[PART_BYTES:])
    uploads.object_store.complete_multipart(upload.key, upload.multipart_id, [*upload.etags, last])
    assert _offset(api, url) == 6 * MB
    assert _add(api, url, 6 * MB, data[6 * MB :]).status_code == 204
    assert _whole(api, url) == data


def test_a_finished_upload_can_be_submitted(api: Api) -> None:
    url = _begin(api, len(PICTURE), **{"Upload-Metadata": "filename Y3VwLmpwZw=="})
    submission = {"upload_id": _id(url)}
    assert refusal(api.post(PATH, json=submission)) == (409, "upload_unfinished")
    _add(api, url, 0, PICTURE)
    job = api.accepted(api.post(PATH, json=submission))
    assert job.file_stem == "cup"
    assert api.objects.get(job.original_key) == PICTURE


def test_an_upload_is_fetched_once_however_its_readers_jump(api: Api) -> None:
    picture = many_tags(400, 9, far=9 * MB)
    url = _begin(api, len(picture))
    _add(api, url, 0, picture)
    store = WatchedStore(api.objects)
    job = api.accepted(api.with_parts(object_store=store).post(PATH, json={"upload_id": _id(url)}))
    key = f"{upload_prefix(_id(url))}whole"
    assert store.calls[:2] == [("chunks", key), ("copy", key, job.original_key)]
    assert store.named("put") == [manifest_key(job.task_id)]
