"""Files that the API sends itself: how many at once."""

import pytest

from api.places import Places
from tests.support.api import Api, refusal


@pytest.mark.parametrize("path", ["tasks/{task}/result?redirect=false", "tasks/{task}/original"])
def test_an_owner_with_its_share_of_downloads_gets_no_other_and_another_owner_does(
    api: Api, path: str
) -> None:
    strict = api.with_settings(auth="on").replaced(downloads=Places(4))
    shop, studio = strict.tenant("shop"), strict.tenant("studio")
    paths = {}
    for tenant in (shop, studio):
        task = tenant.submit()
        tenant.finish(task)
        paths[tenant.owner] = f"/api/v1/{path.format(task=task)}"
    first, unread = shop.get(paths[shop.owner]), shop.get(paths[shop.owner])
    refused = shop.get(paths[shop.owner])
    assert refusal(refused) == (429, "too_many_downloads")
    assert refused.headers["Retry-After"]
    assert shop.head(paths[shop.owner]).status_code == 200
    assert studio.get(paths[studio.owner]).data
    # A place is free again once all was read, and also once a caller has gone.
    assert first.data
    first.close()
    unread.close()
    for _ in range(5):
        with shop.get(paths[shop.owner]) as again:
            assert again.data


@pytest.mark.parametrize(
    ("headers", "status", "data", "content_range"),
    [
        ({"Range": "bytes=2-4"}, 206, b"cut", "bytes 2-4/8"),
        ({"Range": "bytes=2-"}, 206, b"cutout", "bytes 2-7/8"),
        ({"Range": "bytes=-3"}, 206, b"out", "bytes 5-7/8"),
        ({"Range": "bytes=0-99"}, 206, b"a cutout", "bytes 0-7/8"),
        ({"Range": "bytes=8-"}, 200, b"a cutout", None),
        ({"Range": "bytes=0-1,3-4"}, 200, b"a cutout", None),
        ({"Range": "lines=1-2"}, 200, b"a cutout", None),
        ({"Range": "bytes=4-2"}, 200, b"a cutout", None),
        ({"Range": "bytes=2-4", "If-Range": '"1"'}, 200, b"a cutout", None),
    ],
)
def test_a_part_of_a_file_is_sent_where_one_is_asked_for(
    api: Api, headers: dict[str, str], status: int, data: bytes, content_range: str | None
) -> None:
    task = api.submit()
    api.finish(task, b"a cutout")
    answer = api.get(f"/api/v1/tasks/{task}/result?redirect=false", headers=headers)
    assert (answer.status_code, answer.data) == (status, data)
    assert answer.content_length == len(data)
    assert answer.headers.get("Content-Range") == content_range
    head = api.head(f"/api/v1/tasks/{task}/result", headers=headers)
    assert (head.status_code, head.content_length) == (200, 8)
    assert head.headers["Accept-Ranges"] == "bytes"
