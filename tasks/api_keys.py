"""API keys in Redis: of each only its SHA-256, beside the owner that it stands for."""

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, Final, cast

from redis import Redis

from tasks import keys
from tasks.connection import redis_errors
from tasks.errors import KeyNameError
from tasks.owners import ANONYMOUS, Owner

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
            if not self._client.hsetnx(keys.OWNER_NAMES, name, owner.id):
                raise KeyNameError(f"There is a key named {name!r} already; revoke it first.")
            self._write(owner, digest(key))
        return owner, key

    def _write(self, owner: Owner, key_digest: str) -> None:
        with self._client.pipeline(transaction=True) as pipe:
            pipe.hset(keys.owner_key(owner.id), "owner", json.dumps(_to_json(owner)))
            pipe.hset(keys.owner_key(owner.id), "sha256", key_digest)
            pipe.hset(keys.API_KEYS, key_digest, owner.id)
            pipe.execute()

    def find(self, key: str) -> Owner | None:
        """Whose key this is; None if it is nobody's, or revoked."""
        given = digest(key)
        with redis_errors():
            owner_id = self._client.hget(keys.API_KEYS, given)
            record = self._record(str(owner_id)) if owner_id else {}
        # Looking up by hash tells a guesser nothing of the key; the last word is this comparison.
        if not hmac.compare_digest(record.get("sha256", ""), given):
            return None
        owner = _from_record(record)
        return None if owner.revoked else owner

    def get(self, owner_id: str) -> Owner | None:
        """An owner by id, revoked ones too; `ANONYMOUS` for the empty id."""
        if not owner_id:
            return ANONYMOUS
        with redis_errors():
            record = self._record(owner_id)
        return _from_record(record) if record else None

    def list(self) -> list[Owner]:
        """All owners whose keys are good, by name."""
        with redis_errors():
            ids = sorted(cast("dict[str, str]", self._client.hgetall(keys.OWNER_NAMES)).items())
        found = (self.get(owner_id) for _, owner_id in ids)
        return [owner for owner in found if owner is not None]

    def any(self) -> bool:
        """Is there a key that would be taken?"""
        with redis_errors():
            return bool(self._client.hlen(keys.API_KEYS))

    def revoke(self, name: str) -> Owner:
        """Take no more requests with this key; what it began goes on to its end.

        Raises:
            KeyNameError: there is no key of that name.
        """
        owner = replace(self._named(name), revoked=True)
        with redis_errors():
            key_digest = self._record(owner.id)["sha256"]
            with self._client.pipeline(transaction=True) as pipe:
                pipe.hdel(keys.API_KEYS, key_digest)
                pipe.hdel(keys.OWNER_NAMES, name)
                # Kept: its webhooks still have to be signed.
                pipe.hset(keys.owner_key(owner.id), "owner", json.dumps(_to_json(owner)))
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
            self._client.hset(keys.owner_key(owner.id), "owner", json.dumps(_to_json(owner)))
        return owner

    def _named(self, name: str) -> Owner:
        with redis_errors():
            owner_id = self._client.hget(keys.OWNER_NAMES, name)
        owner = self.get(str(owner_id)) if owner_id else None
        if owner is None:
            raise KeyNameError(f"There is no key named {name!r}; see `rmbg keys list`.")
        return owner

    def _record(self, owner_id: str) -> dict[str, str]:
        return cast("dict[str, str]", self._client.hgetall(keys.owner_key(owner_id)))


def digest(key: str) -> str:
    """What is kept of a key. It has 256 random bits, so a plain hash cannot be searched."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def new_webhook_secret() -> str:
    """A secret in the form of Standard Webhooks: `whsec_` and base64 of 32 random bytes."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()}"


def _to_json(owner: Owner) -> dict[str, Any]:
    return {each.name: getattr(owner, each.name) for each in fields(Owner)}


def _from_record(record: Mapping[str, str]) -> Owner:
    values = json.loads(record["owner"])
    known = {each.name: values[each.name] for each in fields(Owner) if each.name in values}
    models = known.get("models")
    return Owner(**{**known, "models": None if models is None else tuple(models)})
