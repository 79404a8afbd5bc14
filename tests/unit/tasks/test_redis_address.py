"""What a Redis URL means, to redis-py and to Celery."""

import pytest

from tasks.redis_address import RedisAddress


@pytest.mark.parametrize(
    ("url", "shown", "celery"),
    [
        ("redis://:p%40@h", "h:6379", "redis://:p%40@h:6379/0"),
        ("redis://u:p@[::1]:7?db=3", "[::1]:7", "redis://u:p@[::1]:7/3"),
        ("rediss://h/2?ssl_ca_certs=/ca", "h:6379", "rediss://h:6379/2"),
        ("unix://:p@/r.sock?db=3", "/r.sock", "redis+socket://:p@/r.sock?virtual_host=3"),
        (
            "redis+sentinel://:p@a,b:7/jobs/3",
            "jobs of the sentinels a:26379,b:7",
            "sentinel://:p@a:26379/3;sentinel://:p@b:7/3",
        ),
        ("rediss+sentinel://a", "mymaster of the sentinels a:26379", "sentinel://a:26379/0"),
    ],
)
def test_a_url_means_the_same_to_celery(url: str, shown: str, celery: str) -> None:
    address = RedisAddress.parse(url)
    assert (str(address), address.celery_broker().url) == (shown, celery)
    assert address.pool().connection_kwargs["db"] == address.db
    assert (address.celery_broker().use_ssl is not None) == url.startswith("rediss")


def test_sentinels_have_a_login_of_their_own() -> None:
    url = "redis+sentinel://u:p@a/jobs?sentinel_username=s&sentinel_password=q"
    asked = RedisAddress.parse(url).celery_broker().transport_options
    assert asked["master_name"] == "jobs"
    assert asked["sentinel_kwargs"]["username"] == "s"
    assert asked["sentinel_kwargs"]["password"] == "q"
