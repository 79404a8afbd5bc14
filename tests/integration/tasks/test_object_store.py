"""The bucket, against a real S3 server."""

import io
import secrets

import pytest
import urllib3

from tasks.errors import ObjectNotFoundError, ObjectStoreUnavailableError
from tasks.object_store import ObjectStore
from tasks.settings import Settings


def _put(objects: ObjectStore, data: bytes) -> str:
    key = f"tests/{secrets.token_hex(8)}"
    objects.put(key, io.BytesIO(data), len(data), "image/png")
    return key


def test_what_is_put_can_be_got_and_deleted(objects: ObjectStore) -> None:
    key = _put(objects, b"picture")
    assert objects.get(key) == b"picture"
    objects.delete(key)
    with pytest.raises(ObjectNotFoundError):
        objects.get(key)


def test_deleting_what_is_not_there_is_no_error(objects: ObjectStore) -> None:
    objects.delete("tests/never-there")


def test_a_signed_address_serves_the_object_under_a_file_name(objects: ObjectStore) -> None:
    key = _put(objects, b"picture")
    answer = urllib3.request("GET", objects.url(key, seconds=60, file_name="cat.png"))
    assert answer.status == 200
    assert answer.data == b"picture"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="cat.png"'


def test_nothing_is_served_without_a_signature(objects: ObjectStore) -> None:
    key = _put(objects, b"picture")
    bare = objects.url(key, seconds=60).split("?")[0]
    assert urllib3.request("GET", bare, retries=False).status == 403


def test_a_large_object_comes_back_whole(objects: ObjectStore) -> None:
    data = secrets.token_bytes(23 * 2**20)
    assert objects.get(_put(objects, data)) == data


def test_the_bucket_is_made_once(objects: ObjectStore) -> None:
    objects.ensure_bucket()
    objects.ensure_bucket()
    objects.ping()


def test_signed_addresses_carry_the_public_address(server_settings: dict[str, object]) -> None:
    public = {**server_settings, "s3_public_endpoint": "https://pictures.example.com"}
    store = ObjectStore.from_settings(Settings.load(**public))
    assert store.url("a", seconds=60).startswith(f"https://pictures.example.com/{store.bucket}/a?")


def test_a_store_that_is_away_is_one_kind_of_error(server_settings: dict[str, object]) -> None:
    away = {**server_settings, "s3_endpoint": "http://127.0.0.1:1"}
    store = ObjectStore.from_settings(Settings.load(**away))
    with pytest.raises(ObjectStoreUnavailableError):
        store.get("a")


def test_wrong_keys_are_refused(server_settings: dict[str, object]) -> None:
    wrong = {**server_settings, "s3_secret_key": "wrong"}
    store = ObjectStore.from_settings(Settings.load(**wrong))
    with pytest.raises(ObjectStoreUnavailableError):
        store.put("a", io.BytesIO(b"x"), 1, "image/png")


def test_metadata_comes_back_under_lower_case_names(objects: ObjectStore) -> None:
    key = f"tests/{secrets.token_hex(8)}"
    text = '{"v":1,"options":{"matte_color":[1,2,3,4]},"name":"caf\\u00e9  two blanks"}'
    objects.put(key, io.BytesIO(b"x"), 1, "image/png", metadata={"rmbg-job": text})
    assert objects.metadata(key) == {"rmbg-job": text}
    assert objects.metadata(_put(objects, b"bare")) == {}
    with pytest.raises(ObjectNotFoundError):
        objects.metadata("tests/never-there")


def test_a_prefix_lists_all_its_keys(objects: ObjectStore) -> None:
    prefix = f"many/{secrets.token_hex(8)}/"
    made = {f"{prefix}{number}" for number in range(7)}
    for key in made:
        objects.put(key, io.BytesIO(b"x"), 1, "image/png")
    assert set(objects.list(prefix)) == made
    assert list(objects.list("never/")) == []
