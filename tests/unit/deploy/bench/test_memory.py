"""What `rmbg bench service --pictures` makes of its readings."""

from deploy.bench.memory import memory_table, reading_points


def test_memory_is_read_on_the_way_and_at_the_end() -> None:
    assert reading_points(1) == [1]
    assert reading_points(500) == [10, 500]
    assert reading_points(1200) == [10, 500, 1000, 1200]


def test_growth_counts_from_when_all_has_been_used() -> None:
    readings = {10: {"API": 80.0}, 500: {"API": 100.0}, 1000: {"API": 104.0, "late": 2.0}}
    assert memory_table(readings).splitlines() == [
        "| resident MB after | 10 | 500 | 1,000 | since 500 |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| API | 80 | 100 | 104 | +4.0% |",
        "| late | 0 | 0 | 2 |  |",
    ]
