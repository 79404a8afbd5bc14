"""The keys of everything in Redis that Python reads or writes; `tasks/lua` lists those of Lua.

Times in sorted sets are unix seconds.
"""

import hashlib
import re
from typing import Final

PREFIX: Final = "rmbg:"

#: No id has a colon: with one, the id of a record could be continued to the name of a key beside
#: it, such as `<id>:lease`.
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,80}\Z")


def is_id(text: str) -> bool:
    """Return whether a text has the form of a task's, batch's, upload's or delivery's id.

    No text of another form names a record: whoever looks one up by an id that a caller or an
    operator gave asks Redis only if this is true.
    """
    return _ID.match(text) is not None


#: Counts of events since the service's first day: a hash.
COUNTERS: Final = f"{PREFIX}counters"

#: The lock of the reconciler's pass.
RECONCILER_LOCK: Final = f"{PREFIX}reconciler"
#: The lock of the retention sweeper's pass.
SWEEPER_LOCK: Final = f"{PREFIX}retention"
#: Set for as long as the bucket need not be swept again: a string that expires.
BUCKET_SWEPT: Final = f"{PREFIX}retention:bucket"
#: Set for as long as Redis's append-only file need not be rewritten: a string that expires.
FILE_REWRITTEN: Final = f"{PREFIX}retention:rewritten"
#: The time of the sweeper's last pass, and since when the clock is doubted: a hash.
SWEEPER_CLOCK: Final = f"{PREFIX}retention:clock"
#: Why the sweeper erases nothing at present: a string that expires.
SWEEPER_PAUSED: Final = f"{PREFIX}retention:paused"

#: Set while the object store counts as full, as it said: a string that expires.
OBJECTS_FULL: Final = f"{PREFIX}store_full"

#: What a probe of Redis writes: a string that expires.
PROBE: Final = f"{PREFIX}probe"

# Celery's messages that a worker has taken: names of the service's own, as workers of another
# Celery application on the same database would be given each other's by a different timeout.

#: The messages by their tag: a hash.
UNACKED: Final = f"{PREFIX}unacked"
#: Their tags, by the time at which a worker took them, which its monitor renews: a sorted set.
UNACKED_INDEX: Final = f"{PREFIX}unacked:index"
#: The lock of who gives the messages of dead workers back.
UNACKED_LOCK: Final = f"{PREFIX}unacked:lock"
#: The first two as earlier versions, and other applications, call them.
FORMER_UNACKED: Final = ("unacked", "unacked_index")

# Jobs

#: Queued jobs whose next message is to be dispatched, by the time from which: a sorted set.
DUE_JOBS: Final = f"{PREFIX}due"
#: Queued jobs with a deadline, by that: a sorted set.
JOB_DEADLINES: Final = f"{PREFIX}deadlines"
#: The dead letters, by the time of their end: a sorted set.
DEAD_LETTERS: Final = f"{PREFIX}dead"
#: All jobs, by the time of the next step of their erasure: a sorted set.
EXPIRIES: Final = f"{PREFIX}expiries"
#: The lists that messages were dispatched to, as `<queue>|<Celery priority>`: a set.
QUEUE_LISTS: Final = f"{PREFIX}lists"
#: Primaries that have ended and still have duplicates, by the time of their end: a sorted set.
COMPLETING: Final = f"{PREFIX}primaries:ended"


def job_key(task_id: str) -> str:
    """A job's record, a hash."""
    return f"{PREFIX}job:{task_id}"


def lease_key(task_id: str) -> str:
    """The token of the worker that runs a job, a string that expires."""
    return f"{PREFIX}job:{task_id}:lease"


def index_key(status: str) -> str:
    """The jobs of a status by the time of entry, a sorted set."""
    return f"{PREFIX}jobs:{status}"


def owner_tasks_key(owner_id: str) -> str:
    """An owner's jobs by the time of submission, a sorted set."""
    return f"{PREFIX}tasks:{owner_id}"


def dispatched_key(list_name: str) -> str:
    """The queued jobs whose message was dispatched to a list, a sorted set by `dispatch_seq`."""
    return f"{PREFIX}dispatched:{list_name}"


def duplicates_key(task_id: str) -> str:
    """The jobs that wait for a primary's result, a set."""
    return f"{PREFIX}duplicates:{task_id}"


def done_channel(task_id: str) -> str:
    """The channel on which the end of a job or batch is published."""
    return f"{PREFIX}done:{task_id}"


def idempotency_key(owner: str, key: str) -> str:
    """What an owner's Idempotency-Key stands for, a string that expires."""
    digest = hashlib.sha256(f"{owner}\n{key}".encode()).hexdigest()
    return f"{PREFIX}idempotency:{digest}"


# Batches

#: Every batch, by the time at which its record expires: a sorted set.
BATCHES: Final = f"{PREFIX}batches"


def batch_key(batch_id: str) -> str:
    """A batch's record, a hash; `:items` is a list beside it, and `:ends` a hash."""
    return f"{PREFIX}batch:{batch_id}"


# Workers

#: Workers whose monitor is alive, by the time until which that holds: a sorted set.
ALIVE_WORKERS: Final = f"{PREFIX}workers:alive"
#: Workers whose model has answered, by the time until which that holds: a sorted set.
READY_WORKERS: Final = f"{PREFIX}workers:ready"
#: Drained workers, with the reason: a hash.
DRAINED_WORKERS: Final = f"{PREFIX}workers:drained"


def worker_key(worker: str) -> str:
    """A worker's queue, model, pid and seconds a job, a hash."""
    return f"{PREFIX}worker:{worker}"


def ready_key(worker: str) -> str:
    """The time at which a worker's model last answered, a string that expires."""
    return f"{PREFIX}worker:{worker}:ready"


def gpu_faults_key(worker: str) -> str:
    """The jobs over which a worker's GPU failed since its last success, a set."""
    return f"{PREFIX}worker:{worker}:faults"


def process_starts_key(worker: str) -> str:
    """The starts of a worker's processes, a sorted set."""
    return f"{PREFIX}worker:{worker}:starts"


# Accounts

#: Owner's id by the SHA-256 of a valid API key: a hash.
API_KEYS: Final = f"{PREFIX}keys"
#: Owner's id by name, of those with a valid key: a hash.
OWNER_IDS_BY_NAME: Final = f"{PREFIX}owners"


def owner_key(owner_id: str) -> str:
    """An owner and the SHA-256 of its key, a hash."""
    return f"{PREFIX}owner:{owner_id}"


def rate_key(caller: str, policy: str) -> str:
    """A caller's token bucket under a policy, a hash that expires."""
    return f"{PREFIX}rate:{policy}:{caller}"


# Quotas

#: Bytes charged to each owner: a hash.
STORED: Final = f"{PREFIX}stored"


def charges_key(owner_id: str) -> str:
    """The bytes charged to an owner for each object, a hash."""
    return f"{PREFIX}charges:{owner_id}"


def pending_key(owner_id: str) -> str:
    """An owner's queued and running jobs, those with a record by the score 0: a sorted set."""
    return f"{PREFIX}pending:{owner_id}"


def owner_uploads_key(owner_id: str) -> str:
    """An owner's uploads, complete ones by the score 1: a sorted set."""
    return f"{PREFIX}uploads:{owner_id}"


# Uploads

#: Resumable uploads, and files of batches while they are received, by expiry: a sorted set.
UPLOADS: Final = f"{PREFIX}uploads"


def upload_key(upload_id: str) -> str:
    """An upload's record, a hash."""
    return f"{PREFIX}upload:{upload_id}"


def upload_lock_key(upload_id: str) -> str:
    """The token of the request that writes to an upload, a string that expires."""
    return f"{PREFIX}upload:{upload_id}:lock"


def upload_takeover_key(upload_id: str) -> str:
    """Set while another request waits for that lock, a string that expires."""
    return f"{PREFIX}upload:{upload_id}:wanted"


# Webhooks

#: Pending deliveries, by the time of the next attempt: a sorted set.
DELIVERIES_DUE: Final = f"{PREFIX}deliveries:due"
#: Dead deliveries, by the time at which they were given up: a sorted set.
DELIVERIES_DEAD: Final = f"{PREFIX}deliveries:dead"
#: Targets that answered 410, as earlier versions noted them: a hash, of which entries only leave.
DISABLED_TARGETS: Final = f"{PREFIX}webhooks:disabled"


def delivery_key(delivery_id: str) -> str:
    """A webhook delivery's record, a hash."""
    return f"{PREFIX}delivery:{delivery_id}"


def attempts_key(delivery_id: str) -> str:
    """A delivery's attempts, a list of JSON objects."""
    return f"{PREFIX}delivery:{delivery_id}:attempts"


def deliveries_key(subject: str) -> str:
    """The ids of all deliveries of a task or batch, a list."""
    return f"{PREFIX}deliveries:{subject}"


def webhook_host_key(owner_id: str, host: str) -> str:
    """The state of an owner's circuit breaker of a receiving host, a hash that expires."""
    return f"{PREFIX}webhooks:host:{owner_id}@{host}"


def gone_targets_key(owner_id: str) -> str:
    """An owner's targets that answered 410, a sorted set by that time."""
    return f"{PREFIX}webhooks:gone:{owner_id}"
