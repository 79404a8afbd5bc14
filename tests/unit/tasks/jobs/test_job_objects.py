"""What the bucket knows of a job."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.jobs.job import Job, Priority, Status
from tasks.jobs.job_objects import (
    MANIFEST_MAX_BYTES,
    MANIFEST_METADATA,
    read_manifest,
    write_manifest,
)
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
    metadata = write_manifest(job.evolve(status=Status.PROCESSING, attempts=2))
    assert read_manifest(job.original_key, metadata) == job.evolve(queue="")


@given(st.text(max_size=3000), st.text(max_size=3000))
def test_it_is_ascii_and_short_whatever_the_names(stem: str, request_id: str) -> None:
    job = _job(file_stem=stem, request_id=request_id)
    metadata = write_manifest(job)
    assert metadata[MANIFEST_METADATA].isascii()
    assert metadata[MANIFEST_METADATA].isprintable()
    assert len(metadata[MANIFEST_METADATA]) + len("x-amz-meta-") + len(MANIFEST_METADATA) < 2048
    assert len(metadata[MANIFEST_METADATA]) <= MANIFEST_MAX_BYTES
    assert read_manifest(job.original_key, metadata) is not None


def test_options_that_cannot_be_kept_are_refused() -> None:
    with pytest.raises(ValueError, match="options"):
        write_manifest(_job(options={"a": "x" * MANIFEST_MAX_BYTES}))


@pytest.mark.parametrize(
    "text", ["", "[]", "[1]", "{}", "null", '{"task_id": 1}', '{"v":1,"created_at":"soon"}']
)
def test_what_cannot_be_read_is_none(text: str) -> None:
    assert read_manifest("originals/rm-1", {MANIFEST_METADATA: text}) is None


def test_no_manifest_or_that_of_another_key_is_none() -> None:
    assert read_manifest("originals/rm-1", {}) is None
    assert read_manifest("originals/rm-1", write_manifest(_job())) is None
