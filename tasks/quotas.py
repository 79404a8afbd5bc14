"""Quotas: what an owner may store, upload and have pending, charged before anything is kept.

Bytes are charged by object, and an upload by its whole length. A charge without a record lapses.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final, Self

import structlog
from redis import Redis

from tasks import lua_scripts, redis_keys
from tasks.api_keys import Owner
from tasks.errors import QueueUnavailableError, QuotaExceededError, UncertainWriteError
from tasks.jobs.job import Status
from tasks.redis_client import redis_errors
from tasks.settings import Settings

#: How long a charge stands before a record holds it: longer than a request may take.
RESERVED_SECONDS: Final = 3600.0
#: Uploads that an owner may have in all, for each unfinished one: their records take memory too.
KEPT_PER_UNFINISHED: Final = 10
#: About what one object's part of a record takes in Redis, at least.
_OBJECT_BYTES: Final = 2048
#: Interval of the passes that correct what is counted.
CORRECT_SECONDS: Final = 300.0
#: Entries that are corrected in one step.
_BLOCK: Final = 500

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Quota:
    """What an owner may have; 0 means no limit.

    Attributes:
        max_bytes: in the bucket: originals, backgrounds, results and uploads.
        max_uploads: that are unfinished.
        max_pending: jobs that are queued or running.
        all_pending: jobs of all owners; of these, an owner may have as many as it leaves free, once
            there are several keys.
    """

    max_bytes: int = 0
    max_uploads: int = 0
    max_pending: int = 0
    all_pending: int = 0

    def to_lua(self) -> dict[str, str]:
        """Return the limits as the Lua commands take them."""
        limits = {
            "bytes": self.max_bytes,
            "uploads": self.max_uploads,
            "kept": self.max_uploads * KEPT_PER_UNFINISHED,
            "pending": self.max_pending,
            "all_pending": self.all_pending,
        }
        return {name: str(limit) for name, limit in limits.items()}


#: No limit of anything.
UNLIMITED: Final = Quota()


@dataclass(frozen=True, slots=True)
class Usage:
    """What an owner has, and may have; see `Quota`.

    Attributes:
        bytes: that were charged.
        uploads: that are unfinished.
        kept_uploads: all uploads, with those that are complete.
        pending: jobs.
        quota: its limits; `max_pending` is what the other owners leave it, if that is less.
    """

    bytes: int
    uploads: int
    kept_uploads: int
    pending: int
    quota: Quota

    @classmethod
    def read(cls, answer: Sequence[Any], quota: Quota) -> Self:
        """Return what a Lua command answers.

        Raises:
            QuotaExceededError: the command was refused.
        """
        refusal, *numbers = answer
        stored, unfinished, kept, pending, max_pending = map(int, numbers)
        usage = cls(stored, unfinished, kept, pending, replace(quota, max_pending=max_pending))
        if refusal:
            raise usage.refused(str(refusal))
        return usage

    def refused(self, what: str) -> QuotaExceededError:
        """Return the error for a quota without room: of bytes, pending, uploads or kept uploads."""
        quota, kept = self.quota, self.quota.max_uploads * KEPT_PER_UNFINISHED
        match what:
            case "bytes":
                return QuotaExceededError(
                    "storage_quota_exceeded",
                    f"You have {self.bytes / 2**20:.1f} MB stored, and your quota of "
                    f"{quota.max_bytes / 2**20:.1f} MB has no room for this; erase tasks or end "
                    "uploads, or wait until they expire.",
                )
            case "pending":
                return QuotaExceededError(
                    "too_many_pending",
                    f"You have {self.pending} jobs queued or running, and may have "
                    f"{quota.max_pending} now; try again when some have ended, or cancel some.",
                )
            case "uploads":
                return QuotaExceededError(
                    "too_many_uploads",
                    f"You have {self.uploads} unfinished uploads, and your quota is "
                    f"{quota.max_uploads}; finish or end some, or wait until they expire.",
                )
            case _:
                return QuotaExceededError(
                    "too_many_uploads",
                    f"You have {self.kept_uploads} uploads, and your quota is {kept} with the "
                    "complete ones; end those that you have submitted.",
                )


@dataclass(frozen=True, slots=True)
class Quotas:
    """Charges owners, and releases and corrects what they were charged.

    Every method but `release` raises `QueueUnavailableError` if Redis does not answer.

    Attributes:
        default: the quota of an owner whose key names none.
    """

    client: Redis
    default: Quota = UNLIMITED
    clock: Callable[[], float] = time.time

    @classmethod
    def from_settings(cls, client: Redis, settings: Settings) -> Self:
        """Build it with the quota that the settings give to each owner."""
        return cls(
            client,
            Quota(
                max_bytes=round(settings.owner_max_stored_mb * 2**20),
                max_uploads=settings.owner_max_uploads,
                max_pending=settings.owner_max_pending,
                all_pending=settings.max_pending,
            ),
        )

    def of(self, owner: Owner) -> Quota:
        """Return an owner's quota: each part is its key's own, or the default."""
        default = self.default
        return Quota(
            default.max_bytes if owner.max_bytes is None else owner.max_bytes,
            default.max_uploads if owner.max_uploads is None else owner.max_uploads,
            default.max_pending if owner.max_pending is None else owner.max_pending,
            default.all_pending,
        )

    def usage(self, owner: Owner) -> Usage:
        """Return what an owner has."""
        quota = self.of(owner)
        return Usage.read(self._run("usage", owner=owner.id, quota=quota.to_lua()), quota)

    def require_share(self, owner: Owner, limit: float) -> None:
        """Refuse an owner that keeps more in Redis than all others together.

        It is asked while Redis fills up, so that the room that is left is the others'. Where there
        is one key, or none, nobody is refused; nor is an owner that takes less than a quarter.

        Args:
            owner: who wants to keep more.
            limit: bytes that all may have in Redis.

        Raises:
            QuotaExceededError: it keeps that much.
        """
        own, all_owners, keys = map(int, self._run("shares", owner=owner.id))
        if keys > 1 and own > all_owners - own and own * _OBJECT_BYTES > limit / 4:
            raise QuotaExceededError(
                "storage_quota_exceeded",
                f"You keep {own:,} pictures, results and refused items, more than all other "
                "callers together, and the service's memory for records fills up; erase tasks and "
                "batches, or wait until they expire.",
            )

    def reserve(self, owner: Owner, task_id: str, key: str, most: int) -> None:
        """Charge an owner for a picture of unknown size that is about to be fetched.

        It is charged its largest size, or what the quota has left, until `charge` names its own; so
        requests that come at once are refused before they fetch what there is no room for. The
        task's place is charged too.

        Raises:
            QuotaExceededError: a quota has no room; nothing was charged.
        """
        self._charge(owner, [task_id], {key: most}, pending=True, up_to=True)

    def charge(
        self,
        owner: Owner,
        ids: Sequence[str],
        objects: Mapping[str, int],
        *,
        pending: bool = False,
        seconds: float = RESERVED_SECONDS,
    ) -> Usage:
        """Charge an owner for objects before they are stored; what was charged before counts once.

        Args:
            owner: who stores them.
            ids: of the tasks whose records will hold them.
            objects: bytes by key in the bucket.
            pending: the tasks will wait and run; False if they are final from their creation.
            seconds: after which the charge lapses, unless a record holds it.

        Returns:
            What the owner has now.

        Raises:
            QuotaExceededError: a quota has no room; nothing was charged.
        """
        return self._charge(owner, ids, objects, pending=pending, seconds=seconds)

    def _charge(
        self,
        owner: Owner,
        ids: Sequence[str],
        objects: Mapping[str, int],
        *,
        pending: bool,
        up_to: bool = False,
        seconds: float = RESERVED_SECONDS,
    ) -> Usage:
        quota = self.of(owner)
        answer = self._run(
            "charge",
            owner=owner.id,
            quota=quota.to_lua(),
            ids=[(each,) for each in ids],
            objects=[(key, str(size)) for key, size in objects.items()],
            pending=pending,
            up_to=up_to,
            lapse=self.clock() + seconds,
        )
        return Usage.read(answer, quota)

    def release(self, owner_id: str, ids: Sequence[str], objects: Sequence[str] = ()) -> None:
        """Release the charges for ids without a record; those of some objects only, if named.

        If Redis does not answer, the charges lapse.
        """
        named = [(key,) for key in objects] or None
        with suppress(QueueUnavailableError):
            self._run(
                "release_charges", owner=owner_id, ids=[(each,) for each in ids], objects=named
            )

    @contextmanager
    def released_on_error(self, owner_id: str, ids: Sequence[str]) -> Iterator[None]:
        """Release the charges for ids if a block of code fails before their tasks are recorded."""
        try:
            yield
        except UncertainWriteError:
            # A record may hold them; otherwise they lapse.
            raise
        except BaseException:
            self.release(owner_id, ids)
            raise

    def charge_found(self, found: Iterable[tuple[str, int]]) -> None:
        """Charge objects in the bucket that a record holds and that nobody was charged for.

        `found` has the key and the bytes of each. An older version of the service stored them, or
        `rmbg restore` recorded their task.
        """
        objects = [(key, str(size)) for key, size in found]
        if objects:
            self._run("charge_found", objects=objects, now=self.clock())

    def correct(self) -> int:
        """Correct what is counted by the records; return the number of corrections."""
        now, corrected = self.clock(), 0
        with redis_errors():
            self._run("lapse", now=now)
            for kind, ids in self._held():
                for block in _blocks(ids):
                    named = {"jobs": [], "uploads": [], kind: block}
                    corrected += int(self._run("count_held", now=now, **named))
            for owner_id in map(str, self.client.hkeys(redis_keys.STORED)):
                for kind, entries in self._counted(owner_id):
                    for block in _blocks(entries):
                        named = {"objects": [], "uploads": [], "pending": [], kind: block}
                        corrected += int(
                            self._run("release_unheld", owner=owner_id, now=now, **named)
                        )
                corrected += int(self._run("add_up", owner=owner_id))
        if corrected:
            _log.info("quotas.corrected", number=corrected)
        return corrected

    def _held(self) -> Iterator[tuple[str, Iterator[str]]]:
        """Yield the pending jobs and the uploads that have records."""
        for status in (Status.QUEUED, Status.PROCESSING):
            found = self.client.zscan_iter(redis_keys.index_key(status), count=_BLOCK)
            yield "jobs", (str(each) for each, _ in found)
        found = self.client.zscan_iter(redis_keys.UPLOADS, count=_BLOCK)
        yield "uploads", (str(each) for each, _ in found)

    def _counted(self, owner_id: str) -> Iterator[tuple[str, Iterator[str]]]:
        """Yield what an owner was charged for."""
        charges = self.client.hscan_iter(redis_keys.charges_key(owner_id), count=_BLOCK)
        yield "objects", (str(key) for key, _ in charges)
        uploads = self.client.zscan_iter(redis_keys.owner_uploads_key(owner_id), count=_BLOCK)
        yield "uploads", (str(each) for each, _ in uploads)
        pending = self.client.zscan_iter(redis_keys.pending_key(owner_id), count=_BLOCK)
        yield "pending", (str(each) for each, _ in pending)

    def _run(self, command: str, **arguments: lua_scripts.Argument) -> Any:  # noqa: ANN401 - what Redis gives
        with redis_errors():
            return lua_scripts.QUOTAS.run(self.client, command, **arguments)


def _blocks(values: Iterable[str]) -> Iterator[list[tuple[str]]]:
    """Yield values in blocks, each in a row of its own, as Lua takes them."""
    rest = iter(values)
    while block := [(each,) for each in islice(rest, _BLOCK)]:
        yield block
