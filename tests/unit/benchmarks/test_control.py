"""Tables of `rmbg bench control`."""

import json

import pytest

from benchmarks.control import Report, Round, markdown, slope


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({10: 2.0, 1_000: 2.0, 100_000: 2.0}, 0),
        ({10: 0.0, 1_000: 1.0, 100_000: 100.0}, 1),
        ({10: 5.0, 1_000: 1.0, 100_000: 10_000.0}, 2),
        ({1: 0.0, 10: 0.0}, 0),
    ],
)
def test_a_slope_is_the_exponent_of_the_growth(values: dict[int, float], expected: int) -> None:
    assert slope(values) == pytest.approx(expected)


def test_all_figures_are_in_the_tables_and_in_the_json() -> None:
    report = Report("a machine", "1.2.3")
    report.rounds = [
        Round("submit", 0, 0, 100, 0, {"API": 6.5, "Redis": 0.5}, 83, 8.8, 7_400),
        Round("all", 8, 15, 123, 0.96, {"API": 7, "Redis": 2, "worker, child": 4}, 277, 33, 18_800),
    ]
    report.growth = {"bytes a job": {10: 2_305.0, 1_000: 2_937.0}}
    report.routing = {"choose": {1: 0.1, 100: 1.0}}
    report.idle = {"API": 0.004}
    report.resident_mb = {"API": 253.2}
    text = markdown(report)
    for row in (
        "| submit |  |  | 100 |  | 7.0 | 6.50 | 0.50 |  | 83 | 8.8 | 7.4 |",
        "| all | 8 | 15 | 123 | 96% | 13.0 | 7.00 | 2.00 | 4.00 | 277 | 33.0 | 18.8 |",
        "| bytes a job | 2,305 | 2,937 | +0.05 |",
        "| choose | 0.10 | 1.00 | +0.50 |",
        "| API | 0.40% |",
        "| API | 253 |",
    ):
        assert row in text
    found = json.loads(report.to_json())
    assert [each["total_ms"] for each in found["rounds"]] == [7, 13]
    assert found["slopes"]["choose"] == pytest.approx(0.5)
