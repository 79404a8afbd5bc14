"""API keys, their owners and webhook secrets. Redis holds only the SHA-256 of a key."""

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, cast

from redis import Redis

from tasks import redis_keys
from tasks.errors import KeyNameError
from tasks.redis_client import redis_errors


@dataclass(frozen=True, slots=True)
class Owner:
    """A tenant: one key, and what goes with it.

    Attributes:
        id: stable over every change of the key's settings; empty for anybody.
        name: what the operator calls it.
        rate_per_minute: pictures that it may submit in a minute; None for any number.
        models: those that it may use; None for all.
        webhook_url: where its tasks report to, unless a task says otherwise.
        webhook_secret: `whsec_…`, which its webhooks are signed with.
        old_webhook_secret: the one before, which is valid beside the new one for a while.
        old_webhook_secret_until: the unix time at which that ends.
        revoked: its key is no longer taken; what it began goes on to its end.
    """

    id: str
    name: str
    rate_per_minute: float | None = None
    models: tuple[str, ...] | None = None
    webhook_url: str | None = None
    webhook_secret: str | None = field(default=None, repr=False)
    old_webhook_secret: str | None = field(default=None, repr=False)
    old_webhook_secret_until: float = 0.0
    created_at: float = 0.0
    revoked: bool = False

    @property
    def anonymous(self) -> bool:
        """Is this anybody, no key having been asked for?"""
        return not self.id

    def signing_secrets(self, now: float) -> tuple[str, ...]:
        """What a webhook is signed with at a unix time, the newest first; none if it has none."""
        old = self.old_webhook_secret if now < self.old_webhook_secret_until else None
        return tuple(secret for secret in (self.webhook_secret, old) if secret)

    def may_use(self, model: str) -> bool:
        """Is a model among those that this key is for?"""
        return self.models is None or model in self.models


#: Whoever calls while keys are off.
ANONYMOUS: Final = Owner(id="", name="anonymous")

#: How long a webhook secret that was replaced goes on signing beside the new one.
OLD_SECRET_SECONDS: Final = 24 * 3600

_KEY_PREFIX: Final = "rmbg_"

_KEY_BYTES: Final = 32

_SECRET_BYTES: Final = 32

_ID_BYTES: Final = 8


class ApiKeys:
    """The owners and their keys. Every method raises `QueueUnavailableError` without Redis.

    A key is shown once, when it is made, and cannot be had again.
    """

    def __init__(self, client: Redis, *, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._clock = clock

    def add(
        self,
        name: str,
        *,
        rate_per_minute: float | None = None,
        models: tuple[str, ...] | None = None,
        webhook_url: str | None = None,
    ) -> tuple[Owner, str]:
        """Make an owner of that name; the owner, and the key in the clear.

        Raises:
            KeyNameError: another key has that name.
        """
        key = f"{_KEY_PREFIX}{secrets.token_urlsafe(_KEY_BYTES)}"
        owner = Owner(
            id=f"own-{secrets.token_hex(_ID_BYTES)}",
            name=name,
            rate_per_minute=rate_per_minute,
            models=models,
            webhook_url=webhook_url,
            webhook_secret=new_webhook_secret(),
            created_at=self._clock(),
        )
        with redis_errors():
            if not self._client.hsetnx(redis_keys.OWNER_IDS_BY_NAME, name, owner.id):
                raise KeyNameError(f"There is a key named {name!r} already; revoke it first.")
            self._write(owner, key_digest(key))
        return owner, key

    def _write(self, owner: Owner, key_digest: str) -> None:
        with self._client.pipeline(transaction=True) as pipe:
            pipe.hset(redis_keys.owner_key(owner.id), "owner", json.dumps(_secrets_to_json(owner)))
            pipe.hset(redis_keys.owner_key(owner.id), "sha256", key_digest)
            pipe.hset(redis_keys.API_KEYS, key_digest, owner.id)
            pipe.execute()

    def find(self, key: str) -> Owner | None:
        """Whose key this is; None if it is nobody's, or revoked."""
        given = key_digest(key)
        with redis_errors():
            owner_id = self._client.hget(redis_keys.API_KEYS, given)
            record = self._record(str(owner_id)) if owner_id else {}
        # Looking up by hash tells a guesser nothing of the key; the last word is this comparison.
        if not hmac.compare_digest(record.get("sha256", ""), given):
            return None
        owner = _owner_from_record(record)
        return None if owner.revoked else owner

    def get(self, owner_id: str) -> Owner | None:
        """An owner by id, revoked ones too; `ANONYMOUS` for the empty id."""
        if not owner_id:
            return ANONYMOUS
        with redis_errors():
            record = self._record(owner_id)
        return _owner_from_record(record) if record else None

    def list(self) -> list[Owner]:
        """All owners whose keys are good, by name."""
        with redis_errors():
            ids = sorted(
                cast("dict[str, str]", self._client.hgetall(redis_keys.OWNER_IDS_BY_NAME)).items()
            )
        found = (self.get(owner_id) for _, owner_id in ids)
        return [owner for owner in found if owner is not None]

    def any(self) -> bool:
        """Is there a key that would be taken?"""
        with redis_errors():
            return bool(self._client.hlen(redis_keys.API_KEYS))

    def revoke(self, name: str) -> Owner:
        """Take no more requests with this key; what it began goes on to its end.

        Raises:
            KeyNameError: there is no key of that name.
        """
        owner = replace(self._named(name), revoked=True)
        with redis_errors():
            key_digest = self._record(owner.id)["sha256"]
            with self._client.pipeline(transaction=True) as pipe:
                pipe.hdel(redis_keys.API_KEYS, key_digest)
                pipe.hdel(redis_keys.OWNER_IDS_BY_NAME, name)
                # Kept: its webhooks still have to be signed.
                pipe.hset(
                    redis_keys.owner_key(owner.id), "owner", json.dumps(_secrets_to_json(owner))
                )
                pipe.execute()
        return owner

    def rotate_secret(self, name: str) -> Owner:
        """Sign webhooks with a new secret, and for a day with the old one too.

        Raises:
            KeyNameError: there is no key of that name.
        """
        before = self._named(name)
        owner = replace(
            before,
            webhook_secret=new_webhook_secret(),
            old_webhook_secret=before.webhook_secret,
            old_webhook_secret_until=self._clock() + OLD_SECRET_SECONDS,
        )
        with redis_errors():
            self._client.hset(
                redis_keys.owner_key(owner.id), "owner", json.dumps(_secrets_to_json(owner))
            )
        return owner

    def _named(self, name: str) -> Owner:
        with redis_errors():
            owner_id = self._client.hget(redis_keys.OWNER_IDS_BY_NAME, name)
        owner = self.get(str(owner_id)) if owner_id else None
        if owner is None:
            raise KeyNameError(f"There is no key named {name!r}; see `rmbg keys list`.")
        return owner

    def _record(self, owner_id: str) -> dict[str, str]:
        return cast("dict[str, str]", self._client.hgetall(redis_keys.owner_key(owner_id)))


def key_digest(key: str) -> str:
    """What is kept of a key. It has 256 random bits, so a plain hash cannot be searched."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def new_webhook_secret() -> str:
    """A secret in the form of Standard Webhooks: `whsec_` and base64 of 32 random bytes."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()}"


def _secrets_to_json(owner: Owner) -> dict[str, Any]:
    return {each.name: getattr(owner, each.name) for each in fields(Owner)}


def _owner_from_record(record: Mapping[str, str]) -> Owner:
    values = json.loads(record["owner"])
    known = {each.name: values[each.name] for each in fields(Owner) if each.name in values}
    models = known.get("models")
    return Owner(**{**known, "models": None if models is None else tuple(models)})
