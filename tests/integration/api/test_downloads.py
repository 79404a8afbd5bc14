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
