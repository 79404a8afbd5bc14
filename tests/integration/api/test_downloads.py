"""Files that the API sends itself: how many at once, and parts of them."""

import urllib3

from api.places import Places
from tests.support.api import Api
from tests.support.submissions import refusal


def test_an_owner_with_its_share_of_downloads_gets_no_other_and_another_owner_does(
    api: Api,
) -> None:
    strict = api.with_settings(auth="on").replaced(downloads=Places(4))
    shop, studio = strict.tenant("shop"), strict.tenant("studio")
    mine, others = (f"/api/v1/tasks/{each.submit()}/original" for each in (shop, studio))
    first, unread, refused = (shop.get(mine) for _ in range(3))
    assert refusal(refused) == (429, "too_many_downloads")
    assert refused.headers["Retry-After"]
    assert shop.head(mine).status_code == 200
    assert studio.get(others).data
    # A place is free again once all was read, and also once a caller has gone.
    assert first.data
    first.close()
    unread.close()
    for _ in range(5):
        with shop.get(mine) as again:
            assert again.data


def test_a_part_of_a_file_is_sent_where_one_is_asked_for(api: Api) -> None:
    task = api.submit()
    api.finish(task, b"a cutout")
    path, whole = f"/api/v1/tasks/{task}/result", (b"a cutout", None)
    for headers, sent in (
        ({"Range": "bytes=2-4"}, (b"cut", "bytes 2-4/8")),
        ({"Range": "bytes=-3"}, (b"out", "bytes 5-7/8")),
        ({"Range": "bytes=2-99"}, (b"cutout", "bytes 2-7/8")),
        ({"Range": "bytes=8-"}, whole),
        ({"Range": "bytes=0-1,3-4"}, whole),
        ({"Range": "lines=1-2"}, whole),
        ({"Range": "bytes=2-4", "If-Range": '"1"'}, whole),
    ):
        answer = api.get(f"{path}?redirect=false", headers=headers)
        assert (answer.data, answer.headers.get("Content-Range")) == sent
        assert answer.status_code == (200 if sent is whole else 206)
        assert answer.content_length == len(answer.data)
        head = api.head(path, headers=headers)
        assert (head.status_code, head.content_length) == (200, 8)
        assert head.headers["Accept-Ranges"] == "bytes"
    # The store's signed addresses know parts, too.
    shown = api.data(f"/api/v1/tasks/{task}")["result_url"]
    for address in (shown, api.get(path).headers["Location"]):
        part = urllib3.request("GET", address, headers={"Range": "bytes=2-4"})
        assert (part.status, part.data) == (206, b"cut")
