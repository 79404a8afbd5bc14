"""Keys in a real Redis."""

import base64

import pytest
from pydantic import SecretStr
from redis import Redis

from tasks import redis_keys
from tasks.api_keys import ANONYMOUS, OLD_SECRET_SECONDS, ApiKeys, Owner, key_digest
from tasks.errors import KeyNameError, QueueUnavailableError
from tasks.redis_client import connect
from tasks.webhooks.sending import signing_secrets
from tests.support.clock import Clock
from tests.support.redis_content import mentions
from tests.support.redis_proxy import Fault, redis_proxy


@pytest.fixture
def api_keys(redis: Redis, clock: Clock) -> ApiKeys:
    return ApiKeys(redis, clock=clock)


def test_a_key_stands_for_its_owner_until_it_is_revoked(api_keys: ApiKeys) -> None:
    assert not api_keys.any()
    owner, key = api_keys.add(
        "shop", rate_per_minute=60, models=("u2netp",), webhook_url="https://shop.example/hook"
    )
    assert api_keys.find(key) == owner == api_keys.get(owner.id)
    assert api_keys.list() == [owner]
    assert [api_keys.find(wrong) for wrong in (key + "x", "")] == [None, None]
    revoked = api_keys.revoke("shop")
    assert api_keys.find(key) is None
    assert not api_keys.any()
    assert api_keys.list() == []
    # Webhooks of what it began are still signed.
    assert api_keys.get(owner.id) == revoked
    assert revoked.signing_secrets(0) == owner.signing_secrets(0)


def test_redis_never_holds_the_key_itself(api_keys: ApiKeys, redis: Redis) -> None:
    _, key = api_keys.add("shop")
    assert mentions(redis, key) == []
    assert redis_keys.API_KEYS in mentions(redis, key_digest(key))


def test_a_name_belongs_to_one_key_at_a_time(api_keys: ApiKeys) -> None:
    first, _ = api_keys.add("shop")
    with pytest.raises(KeyNameError, match="shop"):
        api_keys.add("shop")
    api_keys.revoke("shop")
    second, _ = api_keys.add("shop")
    assert second.id != first.id
    with pytest.raises(KeyNameError, match="without a key"):
        api_keys.add("anonymous")


def test_a_name_is_free_again_if_redis_goes_away_while_its_key_is_written(
    api_keys: ApiKeys, redis_url: str
) -> None:
    with redis_proxy(redis_url, b"MULTI") as faulty:
        faulty.fault = Fault.DELAY
        with connect(faulty.url, timeout=1) as cut_off, pytest.raises(QueueUnavailableError):
            ApiKeys(cut_off).add("shop")
    assert api_keys.list() == []
    api_keys.add("shop")


def test_a_secret_has_the_form_of_standard_webhooks_and_outlives_its_rotation_by_a_day(
    api_keys: ApiKeys, clock: Clock
) -> None:
    before, _ = api_keys.add("shop")
    (old,) = before.signing_secrets(clock.now)
    assert old.startswith("whsec_")
    assert len(base64.b64decode(old.removeprefix("whsec_"), validate=True)) == 32
    after = api_keys.rotate_secret("shop")
    new = after.webhook_secret
    assert new != old
    assert after.signing_secrets(clock.now + OLD_SECRET_SECONDS - 1) == (new, old)
    assert after.signing_secrets(clock.now + OLD_SECRET_SECONDS) == (new,)
    assert api_keys.get(before.id) == after
    default = SecretStr("whsec_default")
    for owner, secrets in ((before.id, (new, old)), ("", ("whsec_default",)), ("own-nobody", ())):
        assert signing_secrets(api_keys, default, owner, clock.now) == secrets


def test_an_unknown_name_is_refused_and_an_unknown_owner_is_none(api_keys: ApiKeys) -> None:
    for change in (api_keys.revoke, api_keys.rotate_secret):
        with pytest.raises(KeyNameError, match="rmbg keys list"):
            change("nobody")
    with pytest.raises(KeyNameError, match="RMBG_OWNER_MAX_"):
        api_keys.set_quotas("anonymous", max_uploads=1)
    assert api_keys.get("own-nobody") is None
    assert api_keys.get("") is ANONYMOUS


def test_a_hash_that_points_at_another_owner_is_no_way_in(api_keys: ApiKeys, redis: Redis) -> None:
    owner, _ = api_keys.add("shop")
    redis.hset(redis_keys.API_KEYS, key_digest("forged"), owner.id)
    assert api_keys.find("forged") is None


def test_an_owner_shows_no_secret_when_printed_and_may_have_some_models_only() -> None:
    owner = Owner("o-1", "shop", webhook_secret="whsec_new", models=("rmbg-2.0",))
    assert "whsec" not in repr(owner)
    assert not owner.may_use("u2netp")
    assert Owner("o-1", "shop").may_use("u2netp")
