import dataclasses
import re
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.jobs.job import Job, JobError, Status, from_record, new_task_id, to_record

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40)
times = st.floats(0, 4e9, allow_nan=False)
jobs = st.builds(
    Job,
    task_id=words,
    model=words,
    queue=words,
    original_key=words,
    created_at=times,
    expires_at=times,
    status=st.sampled_from(Status),
    options=st.dictionaries(words, st.none() | st.integers() | words, max_size=3),
    attempts=st.integers(0, 20),
    worker=st.none() | words,
    started_at=st.none() | times,
    timings=st.dictionaries(words, st.integers(0, 10**6), max_size=3),
    error=st.none() | st.builds(JobError, words, words, st.booleans()),
)


@given(jobs)
@settings(max_examples=30)
def test_a_record_is_text_and_reads_back_as_its_job_without_later_fields(job: Job) -> None:
    record = to_record({each.name: getattr(job, each.name) for each in dataclasses.fields(job)})
    assert all(isinstance(value, str) for value in record.values())
    assert from_record({**record, "invented_later": "x"}) == job


def test_an_id_carries_its_day_and_cannot_be_guessed() -> None:
    days = {datetime.now(UTC)}
    made = {new_task_id() for _ in range(1000)}
    days.add(datetime.now(UTC))
    assert len(made) == 1000
    day = "|".join(f"{each:%Y%m%d}" for each in days)
    assert all(re.fullmatch(rf"rm-({day})-[2-9a-z]{{20}}", task_id) for task_id in made)
