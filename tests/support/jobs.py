"""Jobs of the tests, and the empty Redis database that they are recorded in."""

from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis

from tasks.jobs.job import Job, new_task_id
from tasks.jobs.store import JobStore
from tasks.object_store import original_key
from tasks.redis_client import connect


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


def database_url(redis_url: str, number: int) -> str:
    """The URL of another database of the tests' server."""
    return f"{redis_url.removesuffix('/0')}/{number}"


def on_database(
    server_settings: dict[str, object], number: int, **more: object
) -> dict[str, object]:
    """`server_settings` with another database, and more of a test's own."""
    url = database_url(str(server_settings["redis_url"]), number)
    return {**server_settings, "redis_url": url, **more}


@contextmanager
def empty_database(redis_url: str, number: int) -> Iterator[Redis]:
    """A client of a database that holds nothing: what is counted and listed is the test's own."""
    with connect(database_url(redis_url, number)) as client:
        client.flushdb()
        yield client
