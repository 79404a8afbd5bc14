"""Jobs of the tests."""

from tasks.jobs.job import Job, new_task_id
from tasks.jobs.store import JobStore
from tasks.object_store import original_key


def make_job(**changes: object) -> Job:
    """A new job that waits in the shared queue of its model; `changes` are fields of it."""
    task_id = str(changes.get("task_id", new_task_id()))
    model = str(changes.get("model", "u2netp"))
    job = Job(task_id, model, f"model.{model}", original_key(task_id), 1.7e9, 4e9)
    return job.evolve(**changes)


def recorded(store: JobStore, job: Job | str) -> Job:
    """A job as its record is now."""
    found = store.get(job if isinstance(job, str) else job.task_id)
    assert found is not None
    return found
