"""The keys of all records and indexes in Redis, and the ids that they are made of."""

import hashlib
import secrets
from datetime import UTC, datetime
from typing import Final

PREFIX: Final = "rmbg:"

#: Every task that is to be erased: a sorted set by the unix time of the next step of that.
EXPIRIES: Final = f"{PREFIX}expiries"

#: Uploads in pieces, and files of batches on their way in: a sorted set by the unix time at which
#: they expire.
UPLOADS: Final = f"{PREFIX}uploads"

#: The workers whose model answers: a sorted set by the unix time until which that holds.
READY_WORKERS: Final = f"{PREFIX}workers:ready"

#: Letters and digits that survive being read aloud: no 0/o, 1/l/i.
_ALPHABET: Final = "23456789abcdefghjkmnpqrstuvwxyz"

_RANDOM_LENGTH: Final = 20  # 31^20: about 99 bits

#: Queued jobs whose next message is to be dispatched: a sorted set by the unix time from which.
DUE_JOBS: Final = f"{PREFIX}due"

#: Queued jobs that fail unless begun by a time: a sorted set by that unix time.
JOB_DEADLINES: Final = f"{PREFIX}deadlines"

#: The dead letters: a sorted set by the unix time of their end.
DEAD_LETTERS: Final = f"{PREFIX}dead"

#: The lists that messages were dispatched to, `<queue>|<priority level>`: a set.
QUEUE_LISTS: Final = f"{PREFIX}lists"

#: Workers whose parent process lives: a sorted set by the unix time until which that holds.
ALIVE_WORKERS: Final = f"{PREFIX}workers:alive"

#: Workers that take no jobs, and why: a hash.
DRAINED_WORKERS: Final = f"{PREFIX}workers:drained"

#: Counts of what happened, since the service's first day: a hash.
COUNTERS: Final = f"{PREFIX}counters"


def new_task_id(now: datetime | None = None) -> str:
    """A fresh id, `rm-YYYYMMDD-` (UTC) and 20 random characters: it can't be guessed."""
    day = (now or datetime.now(UTC)).strftime("%Y%m%d")
    return f"rm-{day}-{_random_part()}"


def _random_part() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_LENGTH))


def job_key(task_id: str) -> str:
    """The record, a hash."""
    return f"{PREFIX}job:{task_id}"


def lease_key(task_id: str) -> str:
    """The running worker's lease, a string with a time to live."""
    return f"{PREFIX}job:{task_id}:lease"


def cached_result_key(cache_key: str) -> str:
    """The id of a job whose result may be used again, a string with a time to live."""
    return f"{PREFIX}cached:{cache_key}"


def idempotency_key(owner: str, key: str) -> str:
    """What an owner's Idempotency-Key stands for, a string with a time to live."""
    digest = hashlib.sha256(f"{owner}\n{key}".encode()).hexdigest()
    return f"{PREFIX}idempotency:{digest}"


def duplicates_key(task_id: str) -> str:
    """The ids of the jobs that wait for a primary's result, a set."""
    return f"{PREFIX}duplicates:{task_id}"


#: Primaries that have ended and still have duplicates: a sorted set by the unix time of their end.
COMPLETING: Final = f"{PREFIX}primaries:ended"


def index_key(status: str) -> str:
    """The ids of all jobs of a status, a sorted set by unix seconds of entry."""
    return f"{PREFIX}jobs:{status}"


def ready_key(worker: str) -> str:
    """When a worker's model last answered, in unix seconds; gone once that no longer counts."""
    return f"{PREFIX}worker:{worker}:ready"


def gpu_faults_key(worker: str) -> str:
    """The jobs over which its GPU failed since one last succeeded there: a set."""
    return f"{PREFIX}worker:{worker}:faults"


def done_channel(task_id: str) -> str:
    """Published once, when a job becomes final."""
    return f"{PREFIX}done:{task_id}"


def dispatched_key(list_name: str) -> str:
    """Queued jobs whose message was dispatched to a list: a sorted set by `dispatch_seq`."""
    return f"{PREFIX}dispatched:{list_name}"


def aged_key(list_name: str) -> str:
    """Those of them that were raised to the list's level after waiting for too long: a set."""
    return f"{PREFIX}aged:{list_name}"


def process_starts_key(worker: str) -> str:
    """When a worker's processes were started: a sorted set by unix time."""
    return f"{PREFIX}worker:{worker}:starts"


def worker_key(worker: str) -> str:
    """What a worker says of itself: a hash of its queue, model, pid and seconds a job."""
    return f"{PREFIX}worker:{worker}"


def lease_holder(worker: str, pid: int) -> str:
    """The beginning of the tokens of all leases that one process of a worker takes."""
    return f"{worker}/{pid}/"


def lease_token(worker: str, pid: int) -> str:
    """A fresh token: it names the worker, its process, and one run."""
    return f"{lease_holder(worker, pid)}{secrets.token_hex(8)}"


#: Owner's id by the SHA-256 of a key that is good: a hash.
API_KEYS: Final = f"{PREFIX}keys"

#: Owner's id by name, of those whose key is good: a hash.
OWNER_IDS_BY_NAME: Final = f"{PREFIX}owners"


def owner_key(owner_id: str) -> str:
    """An owner and the SHA-256 of its key, a hash."""
    return f"{PREFIX}owner:{owner_id}"


def owner_tasks_key(owner_id: str) -> str:
    """The ids of an owner's jobs, a sorted set by the unix time of their submission."""
    return f"{PREFIX}tasks:{owner_id}"


def rate_key(owner_id: str, policy: str) -> str:
    """What is left of an owner's quota under a policy, a hash with a time to live."""
    return f"{PREFIX}rate:{policy}:{owner_id}"


def new_upload_id() -> str:
    """A fresh id of an upload in pieces: it can't be guessed."""
    return f"up-{_random_part()}"


def upload_key(upload_id: str) -> str:
    """The record of an upload in pieces, a hash."""
    return f"{PREFIX}upload:{upload_id}"


def upload_lock_key(upload_id: str) -> str:
    """Held by the request that writes to an upload, a string with a time to live."""
    return f"{PREFIX}upload:{upload_id}:lock"


def upload_takeover_key(upload_id: str) -> str:
    """Somebody waits for that lock, a string with a time to live."""
    return f"{PREFIX}upload:{upload_id}:wanted"


#: Every batch: a sorted set by the unix time at which its record expires.
BATCHES: Final = f"{PREFIX}batches"


def new_batch_id(now: datetime | None = None) -> str:
    """A fresh id of a batch, `rb-YYYYMMDD-` (UTC) and 20 random characters."""
    return f"rb-{(now or datetime.now(UTC)).strftime('%Y%m%d')}-{_random_part()}"


def batch_key(batch_id: str) -> str:
    """The record of a batch, a hash; `:items` is a list beside it, `:ends` another hash."""
    return f"{PREFIX}batch:{batch_id}"


#: Webhook deliveries that are to be sent: a sorted set by the unix time from which on.
DELIVERIES_DUE: Final = f"{PREFIX}deliveries:due"

#: Those that were given up: a sorted set by the unix time of that.
DELIVERIES_DEAD: Final = f"{PREFIX}deliveries:dead"

#: Targets that answered 410 and are not called again: a hash of unix times.
DISABLED_TARGETS: Final = f"{PREFIX}webhooks:disabled"


def delivery_key(delivery_id: str) -> str:
    """A webhook delivery, a hash."""
    return f"{PREFIX}delivery:{delivery_id}"


def attempts_key(delivery_id: str) -> str:
    """Its attempts, a list of JSON objects."""
    return f"{PREFIX}delivery:{delivery_id}:attempts"


def deliveries_key(subject: str) -> str:
    """The ids of all deliveries about a task or a batch, a list."""
    return f"{PREFIX}deliveries:{subject}"


def webhook_host_key(host: str) -> str:
    """How a host that webhooks go to has behaved, a hash with a time to live."""
    return f"{PREFIX}webhooks:host:{host}"
