"""What `rmbg up` says, before it starts anything, of servers of the user's own."""

from pathlib import Path

import pytest
from redis import Redis

from api.settings import ApiSettings
from deploy.local import stack
from deploy.local.service import SetupError
from tests.support.servers import embedded_valkey
from tests.support.serving import answer, serving

READER = {"s3_access_key": "reader", "s3_secret_key": "readerreader"}


@pytest.mark.usefixtures("objects")
@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"s3_secret_key": "wrong"}, "RMBG_S3_SECRET_KEY"),
        ({"s3_access_key": "nobody"}, "RMBG_S3_ACCESS_KEY"),
        (READER, "the S3 keys may not s3:PutObject"),
        ({**READER, "s3_bucket": "no-such-bucket"}, "refused with AccessDenied"),
    ],
    ids=["secret", "access key", "rights", "bucket"],
)
def test_why_the_object_store_cannot_be_used(
    server_settings: dict[str, object], own: dict[str, str], words: str
) -> None:
    settings = ApiSettings.load(**{**server_settings, **own})
    with pytest.raises(SetupError, match=words) as caught:
        stack._check_object_store(settings)
    assert str(settings.s3_endpoint) in str(caught.value)


@pytest.mark.parametrize("status", [200, 204, 404])
def test_a_server_of_another_kind_is_no_object_store(
    server_settings: dict[str, object], status: int
) -> None:
    with serving(answer(status, b"<html></html>" * (status != 204))) as port:
        own = {**server_settings, "s3_endpoint": f"http://127.0.0.1:{port}"}
        with pytest.raises(SetupError, match="What answers is no object store"):
            stack._check_object_store(ApiSettings.load(**own))


@pytest.mark.parametrize(
    ("command", "user", "words"),
    [
        ("REPLICAOF 127.0.0.1 1", "", "read only replica"),
        ("CONFIG SET maxmemory 1", "", "takes no writes: .*maxmemory"),
        ("ACL SETUSER a on >b ~elsewhere:* &* +@all", "a:b@", "the user a may not: .*rights"),
    ],
    ids=["replica", "full", "rights"],
)
def test_why_redis_cannot_be_used(tmp_path: Path, command: str, user: str, words: str) -> None:
    with embedded_valkey(tmp_path) as url, Redis.from_url(url) as redis:
        stack._check_redis(ApiSettings.load(redis_url=url))
        redis.execute_command(command)
        own = f"redis://{user}{url.rpartition('@')[2]}" if user else url
        with pytest.raises(SetupError, match=words):
            stack._check_redis(ApiSettings.load(redis_url=own))
