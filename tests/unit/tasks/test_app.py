import pytest

from tasks.app import probe_seconds, ready_seconds, soft_time_limit, time_limit
from tasks.settings import Settings


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        ({"model": "u2netp", "device": "cuda"}, 30),
        ({"model": "rmbg-2.0", "device": "cuda:1"}, 60),
        ({"model": "rmbg-2.0", "device": "cpu"}, 180),
        ({"model": "rmbg-2.0", "time_limit": 6}, 6),
        ({"model": "unknown"}, 180),
    ],
)
def test_the_time_limit_follows_from_model_and_device(
    settings: dict[str, object], seconds: int
) -> None:
    assert time_limit(Settings.load(**settings)) == seconds


@pytest.mark.parametrize("limit", [2, 6, 30, 60, 180, 3600])
def test_a_model_is_asked_in_time_before_its_answer_lapses(limit: int) -> None:
    settings = Settings.load(time_limit=limit)
    assert 3 * probe_seconds(settings) <= limit
    assert probe_seconds(settings) <= 30
    # A job that runs up to its limit keeps the model from being asked.
    assert ready_seconds(settings) > limit > soft_time_limit(settings) > 0
