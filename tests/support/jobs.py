"""Jobs of the tests, and what workers make of them."""

from tasks.jobs.job import Job, Status, new_task_id
from tasks.jobs.store import ClaimOutcome, JobStore
from tasks.object_store import original_key


def make_job(**changes: object) -> Job:
    """A new job that waits in the shared queue of its model; `changes` are fields of it."""
    task_id = str(changes.get("task_id", new_task_id()))
    model = str(changes.get("model", "u2netp"))
    job = Job(task_id, model, f"model.{model}", original_key(task_id), 1.7e9, 4e9)
    return job.evolve(**changes)


def _id_of(job: Job | str) -> str:
    return job if isinstance(job, str) else job.task_id


def claim(store: JobStore, job: Job | str, lease: str = "t", worker: str = "w") -> ClaimOutcome:
    """Claim a job as a worker does that has its message."""
    return store.claim(_id_of(job), token=lease, worker=worker)


def finish(
    store: JobStore,
    job: Job | str,
    status: Status = Status.SUCCEEDED,
    *,
    lease: str = "t",
    **facts: object,
) -> None:
    """Claim a job and finish it as a worker does."""
    assert claim(store, job, lease, lease.partition("/")[0]) is ClaimOutcome.CLAIMED
    assert store.finish(_id_of(job), token=lease, status=status, **facts)


def recorded(store: JobStore, job: Job | str) -> Job:
    """A job as its record is now."""
    found = store.get(_id_of(job))
    assert found is not None
    return found
