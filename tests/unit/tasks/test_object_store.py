from tasks.object_store import result_key


def test_two_runs_of_a_job_write_different_objects() -> None:
    first, second = (result_key("rm-1", token, "png") for token in ("a", "b"))
    assert first != second
    assert first.startswith("results/rm-1/")
