import re
from datetime import UTC, datetime

from tasks import redis_keys
from tasks.storage import object_keys


def test_an_id_carries_its_day_and_cannot_be_guessed() -> None:
    made = {redis_keys.new_task_id(datetime(2026, 11, 22, tzinfo=UTC)) for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch(r"rm-20261122-[2-9a-z]{20}", task_id) for task_id in made)


def test_two_runs_of_a_job_write_different_objects() -> None:
    first, second = (object_keys.result_key("rm-1", token, "png") for token in ("a", "b"))
    assert first != second
    assert first.startswith("results/rm-1/")
