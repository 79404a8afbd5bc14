"""When a webhook is tried again, and when it is given up."""

from email.utils import formatdate

import pytest

from tasks.settings import Settings
from tasks.webhooks.deliveries import Delivery, DeliveryState, RetryDecision
from tasks.webhooks.retry import RetryPolicy, parse_retry_after

NOW = 1_000_000.0
PAUSES = (5.0, 300.0, 1800.0)


def decide(
    status: int | None,
    retry_after: str | None = None,
    *,
    tries: int = 0,
    lasts: float = 86400,
    random: float = 0.5,
) -> RetryDecision:
    """What follows from an attempt, after so many tries and so long before the pictures expire."""
    row = Delivery(
        *("msg_x_1", "task", "x", "removal.succeeded", "http://x/", "", NOW),
        expires_at=NOW + lasts,
        attempts=tries,
        tries=tries,
    )
    return RetryPolicy(PAUSES, lambda: random).decide(row, status, retry_after, NOW)


def test_the_contracts_pauses_are_the_default() -> None:
    hours = [2, 5, 10, 14, 20, 24]
    assert Settings.load().webhook_pauses == (5, 300, 1800, *(each * 3600 for each in hours))


@pytest.mark.parametrize("tries", [0, 1, 2])
def test_2xx_delivers_and_all_else_is_tried_again(tries: int) -> None:
    for status in (200, 299):
        assert decide(status, tries=tries).state is DeliveryState.DELIVERED
    for status in (None, 199, 301, 404, 429, 500, 503):
        decision = decide(status, tries=tries)
        assert (decision.state, decision.due) == (DeliveryState.PENDING, NOW + PAUSES[tries])


def test_the_jitter_is_a_tenth_either_way() -> None:
    for random, pause in ((0.0, 270), (0.25, 285), (1.0, 330)):
        assert decide(500, tries=1, random=random).due == pytest.approx(NOW + pause)


def test_it_is_dead_after_the_last_pause_and_where_the_pictures_expire_before_the_next() -> None:
    last, late = decide(500, tries=len(PAUSES)), decide(500, tries=1, lasts=299)
    assert (last.state, last.reason) == (DeliveryState.DEAD, "4 attempts failed.")
    assert late.state is DeliveryState.DEAD
    assert "expire" in late.reason


@pytest.mark.parametrize("status", [429, 502, 503, 504, 500])
def test_a_busy_host_is_left_alone_as_it_asks_and_no_other(status: int) -> None:
    asked, busy = decide(status, "120"), status != 500
    assert (asked.due, asked.pause_host) == (NOW + 120, 120 * busy)
    for tries, lasts in ((0, 86400), (0, 1), (len(PAUSES), 86400)):
        ended = decide(status, tries=tries, lasts=lasts)
        assert ended.pause_host == PAUSES[0] * busy, "also after the last attempt"
    assert decide(status, "99999999", lasts=10**9).due == NOW + 86400
    assert decide(status, "1", tries=1).due == NOW + 300, "the pause is no shorter"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, 0),
        ("7", 7),
        ("-7", 0),
        ("soon", 0),
        ("Mon, 01 Jan 2024 00:00:00 +99999999999999999999", 0),
        ("Mon, 01 Jan 99999999999999999999999 00:00:00 GMT", 0),
        (formatdate(NOW + 60, usegmt=True), 60),
        (formatdate(NOW - 60, usegmt=True), 0),
    ],
)
def test_retry_after_has_two_forms(text: str | None, seconds: float) -> None:
    assert parse_retry_after(text, NOW) == seconds
