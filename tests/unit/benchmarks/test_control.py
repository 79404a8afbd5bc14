"""Tables of `rmbg bench control`."""

import pytest

from benchmarks.control import slope


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
