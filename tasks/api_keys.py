"""API keys, their owners and webhook secrets. Redis holds only the SHA-256 of a key."""

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final, cast

from redis import Redis
from redis.client import Pipeline

from tasks import lua_scripts, redis_keys
from tasks.errors import KeyNameError, KeysFileError
from tasks.redis_client import redis_errors


@dataclass(frozen=True, slots=True)
class Owner:
    """A tenant: the holder of one API key.

    Attributes:
        id: never changes; empty for `ANONYMOUS`.
        name: given by the operator.
        rate_per_minute: limit of pictures a minute; None: no limit.
        models: that it may use; None: all.
        max_bytes: quota of stored bytes; None: the service's own, 0: no limit, as those below.
        max_uploads: quota of unfinished uploads.
        max_pending: quota of queued and running jobs.
        webhook_url: where its webhooks go, unless a task names another URL.
        webhook_secret: `whsec_…`, which signs its webhooks.
        old_webhook_secret: the one before; both sign for a day after a rotation.
        old_webhook_secret_until: the unix time at which that ends.
        operator: it may look at and change everybody's work, by `/api/v1/ops`.
        revoked: its key is refused; its accepted tasks are still completed.
    """

    id: str
    name: str
    rate_per_minute: float | None = None
    models: tuple[str, ...] | None = None
    max_bytes: int | None = None
    max_uploads: int | None = None
    max_pending: int | None = None
    webhook_url: str | None = None
    webhook_secret: str | None = field(default=None, repr=False)
    old_webhook_secret: str | None = field(default=None, repr=False)
    old_webhook_secret_until: float = 0.0
    created_at: float = 0.0
    operator: bool = False
    revoked: bool = False

    @property
    def anonymous(self) -> bool:
        """True where API keys are off."""
        return not self.id

    def signing_secrets(self, now: float) -> tuple[str, ...]:
        """Return the secrets that sign a webhook at a unix time, the newest first."""
        old = self.old_webhook_secret if now < self.old_webhook_secret_until else None
        return tuple(secret for secret in (self.webhook_secret, old) if secret)

    def may_use(self, model: str) -> bool:
        """Return whether the key is for a model."""
        return self.models is None or model in self.models


#: The owner of all requests where API keys are off.
ANONYMOUS: Final = Owner(id="", name="anonymous")

#: How long a replaced webhook secret signs beside the new one.
OLD_SECRET_SECONDS: Final = 24 * 3600

_KEY_PREFIX: Final = "rmbg_"
#: Random bytes of a key, and of a webhook secret.
_SECRET_BYTES: Final = 32


class ApiKeys:
    """The owners and their keys.

    A key is shown once, when it is created, and cannot be recovered. Every method raises
    `QueueUnavailableError` if Redis does not answer.
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
        max_bytes: int | None = None,
        max_uploads: int | None = None,
        max_pending: int | None = None,
        operator: bool = False,
    ) -> tuple[Owner, str]:
        """Create an owner, and return it with its key in plain text.

        Raises:
            KeyNameError: another key has that name, or it stands for callers without a key.
        """
        if name == ANONYMOUS.name:
            raise KeyNameError(f"Callers without a key are {name!r}; choose another name.")
        key = f"{_KEY_PREFIX}{secrets.token_urlsafe(_SECRET_BYTES)}"
        owner = Owner(
            id=f"own-{secrets.token_hex(8)}",
            name=name,
            rate_per_minute=rate_per_minute,
            models=models,
            max_bytes=max_bytes,
            max_uploads=max_uploads,
            max_pending=max_pending,
            webhook_url=webhook_url,
            webhook_secret=new_webhook_secret(),
            created_at=self._clock(),
            operator=operator,
        )

        self._record_new(owner, key_digest(key))
        return owner, key

    def export(self) -> list[dict[str, str]]:
        """Return all valid keys as `restore` takes them: hashes of keys, but webhook secrets."""
        with redis_errors():
            return [self._record(owner.id) for owner in self.list()]

    def restore(self, record: Mapping[str, str]) -> tuple[Owner, bool]:
        """Record an exported key again, unless its owner is recorded, revoked or not.

        Returns:
            The owner, and whether it was recorded now.

        Raises:
            KeysFileError: this is no exported key.
            KeyNameError: another key has that name by now.
        """
        try:
            owner, digest = _owner_from_record(record), record["sha256"]
        except (KeyError, TypeError, ValueError) as error:
            raise KeysFileError("This is no file of `rmbg keys export`.") from error
        if self.get(owner.id) is not None:
            return owner, False
        self._record_new(owner, digest)
        return owner, True

    def _record_new(self, owner: Owner, digest: str) -> None:
        def record(pipe: Pipeline) -> None:
            if pipe.hexists(redis_keys.OWNER_IDS_BY_NAME, owner.name):
                raise KeyNameError(
                    f"There is a key named {owner.name!r} already; revoke it or choose another "
                    "name."
                )
            pipe.multi()
            # All at once: a name without an owner could be neither used nor revoked.
            pipe.hset(redis_keys.OWNER_IDS_BY_NAME, owner.name, owner.id)
            values = ["owner", _to_json(owner), "sha256", digest]
            pipe.hset(redis_keys.owner_key(owner.id), items=values)
            pipe.hset(redis_keys.API_KEYS, digest, owner.id)

        with redis_errors():
            self._client.transaction(record, redis_keys.OWNER_IDS_BY_NAME)

    def find(self, key: str) -> Owner | None:
        """Return the owner of a key; None if the key is unknown or revoked."""
        given = key_digest(key)
        with redis_errors():
            found = lua_scripts.PRIMITIVES.run(
                self._client,
                "named_hash",
                index=redis_keys.API_KEYS,
                field=given,
                prefix=redis_keys.owner_key(""),
            )
        record: dict[str, str] = dict(zip(found[::2], found[1::2], strict=True))
        # The time of a lookup by hash reveals nothing about the key.
        if not hmac.compare_digest(record.get("sha256", ""), given):
            return None
        owner = _owner_from_record(record)
        return None if owner.revoked else owner

    def get(self, owner_id: str) -> Owner | None:
        """Return an owner by id, also a revoked one; `ANONYMOUS` for the empty id."""
        if not owner_id:
            return ANONYMOUS
        with redis_errors():
            record = self._record(owner_id)
        return _owner_from_record(record) if record else None

    def list(self) -> list[Owner]:
        """Return all owners with a valid key, by name."""
        with redis_errors():
            ids = cast("dict[str, str]", self._client.hgetall(redis_keys.OWNER_IDS_BY_NAME))
        return [owner for _, each in sorted(ids.items()) if (owner := self.get(each))]

    def any(self) -> bool:
        """Return whether there is a valid key."""
        with redis_errors():
            return bool(self._client.hlen(redis_keys.API_KEYS))

    def revoke(self, name: str) -> Owner:
        """Refuse requests with a key from now on; accepted tasks are still completed.

        Raises:
            KeyNameError: there is no key of that name.
        """
        owner = replace(self._named(name), revoked=True)
        with redis_errors():
            key_digest = self._record(owner.id)["sha256"]
            with self._client.pipeline(transaction=True) as pipe:
                pipe.hdel(redis_keys.API_KEYS, key_digest)
                pipe.hdel(redis_keys.OWNER_IDS_BY_NAME, name)
                # The owner stays: its webhooks still have to be signed.
                pipe.hset(redis_keys.owner_key(owner.id), "owner", _to_json(owner))
                pipe.execute()
        return owner

    def set_quotas(self, name: str, **quotas: Any) -> Owner:  # noqa: ANN401 - as of `replace`
        """Give a key other quotas: `max_bytes`, `max_uploads`, `max_pending`; None: the service's.

        Raises:
            KeyNameError: there is no key of that name.
        """
        owner = replace(self._named(name), **quotas)
        self._write(owner)
        return owner

    def rotate_secret(self, name: str) -> Owner:
        """Sign an owner's webhooks with a new secret, and for a day with the old one as well.

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
        self._write(owner)
        return owner

    def _write(self, owner: Owner) -> None:
        with redis_errors():
            self._client.hset(redis_keys.owner_key(owner.id), "owner", _to_json(owner))

    def _named(self, name: str) -> Owner:
        with redis_errors():
            owner_id = self._client.hget(redis_keys.OWNER_IDS_BY_NAME, name)
        owner = self.get(str(owner_id)) if owner_id else None
        if owner is None:
            hint = "see `rmbg keys list`."
            if name == ANONYMOUS.name:
                hint = "the quotas of callers without one are the settings RMBG_OWNER_MAX_…"
            raise KeyNameError(f"There is no key named {name!r}; {hint}")
        return owner

    def _record(self, owner_id: str) -> dict[str, str]:
        return cast("dict[str, str]", self._client.hgetall(redis_keys.owner_key(owner_id)))


def key_digest(key: str) -> str:
    """Return the SHA-256 of a key; with 256 random bits a key needs no salt."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def new_webhook_secret() -> str:
    """Draw a secret of Standard Webhooks: `whsec_` and base64 of 32 random bytes."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()}"


def _to_json(owner: Owner) -> str:
    return json.dumps(asdict(owner))


def _owner_from_record(record: Mapping[str, str]) -> Owner:
    values = json.loads(record["owner"])
    known = {each.name: values[each.name] for each in fields(Owner) if each.name in values}
    if known.get("models") is not None:
        known["models"] = tuple(known["models"])
    return Owner(**known)
