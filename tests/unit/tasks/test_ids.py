import re
from datetime import UTC, datetime

from tasks.ids import new_task_id


def test_an_id_carries_its_day_and_cannot_be_guessed() -> None:
    made = {new_task_id(datetime(2026, 11, 22, tzinfo=UTC)) for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch(r"rm-20261122-[2-9a-z]{20}", task_id) for task_id in made)
