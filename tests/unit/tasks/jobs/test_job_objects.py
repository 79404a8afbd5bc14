"""What the bucket knows of a job."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.jobs.job import Job, Priority, Status
from tasks.jobs.job_objects import read_manifest, write_manifest
from tests.support.jobs import make_job


def _job(**changes: object) -> Job:
    return make_job(**{"model": "rmbg-2.0", "created_at": 1.5e9, "expires_at": 1.6e9, **changes})


@given(
    options=st.dictionaries(st.text(max_size=8), st.text(max_size=20) | st.integers(), max_size=5),
    stem=st.text(max_size=80),
    priority=st.sampled_from(Priority),
    deadline=st.none() | st.floats(1e9, 2e9),
    owner=st.sampled_from(["", "o-1"]),
)
def test_a_job_comes_back_as_it_was_submitted(stem: str, **changes: object) -> None:
    job = _job(file_stem=stem, **changes)
    text = write_manifest(job.evolve(status=Status.PROCESSING, attempts=2))
    assert read_manifest(job.task_id, text) == job.evolve(queue="")


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "[1]", "{}", "null", '{"task_id": 1}', '{"v":1,"created_at":"soon"}', b"\xff"),
        pytest.param(write_manifest(_job()), id="of another task"),
    ],
)
def test_what_cannot_be_read_is_none(text: str | bytes) -> None:
    assert read_manifest("rm-1", text) is None
