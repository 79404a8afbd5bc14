"""When a webhook is tried again, and when it is given up."""

from email.utils import formatdate

import pytest

from tasks.settings import Settings
from tasks.webhooks.deliveries import Delivery, DeliveryState
from tasks.webhooks.retry import RetryPolicy, parse_retry_after

NOW = 1_000_000.0
PAUSES = (5.0, 300.0, 1800.0)


def delivery(tries: int = 0, expires_at: float = NOW + 86400) -> Delivery:
    return Delivery(
        "msg_x_1",
        "task",
        "x",
        "removal.succeeded",
        "http://x/",
        "",
        NOW,
        expires_at,
        attempts=tries,
        tries=tries,
    )


def policy(random: float = 0.5) -> RetryPolicy:
    return RetryPolicy(PAUSES, lambda: random)


def test_the_contracts_pauses_are_the_default() -> None:
    hours = [2, 5, 10, 14, 20, 24]
    assert Settings.load().webhook_pauses == (5, 300, 1800, *(each * 3600 for each in hours))


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_2xx_delivers(status: int) -> None:
    assert policy().decide(delivery(), status, None, NOW).state is DeliveryState.DELIVERED


@pytest.mark.parametrize("status", [None, 199, 301, 302, 400, 404, 429, 500, 503])
@pytest.mark.parametrize("tries", [0, 1, 2])
def test_all_else_is_tried_again(status: int | None, tries: int) -> None:
    decision = policy().decide(delivery(tries), status, None, NOW)
    assert (decision.state, decision.due) == (DeliveryState.PENDING, NOW + PAUSES[tries])


@pytest.mark.parametrize("random", [0.0, 0.25, 0.999])
def test_the_jitter_is_a_tenth_either_way(random: float) -> None:
    due = policy(random).decide(delivery(1), 500, None, NOW).due
    assert due == pytest.approx(NOW + 300 * (0.9 + 0.2 * random))


def test_after_the_last_pause_it_is_dead() -> None:
    decision = policy().decide(delivery(len(PAUSES)), 500, None, NOW)
    assert (decision.state, decision.reason) == (DeliveryState.DEAD, "4 attempts failed.")


def test_410_ends_it_and_its_target() -> None:
    decision = policy().decide(delivery(), 410, None, NOW)
    assert (decision.state, decision.disable) == (DeliveryState.DEAD, True)


def test_nothing_is_planned_beyond_the_pictures_expiry() -> None:
    decision = policy().decide(delivery(1, expires_at=NOW + 299), 500, None, NOW)
    assert decision.state is DeliveryState.DEAD
    assert "expire" in decision.reason


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_host_is_left_alone(status: int) -> None:
    decision = policy().decide(delivery(), status, "120", NOW)
    assert (decision.due, decision.pause_host) == (NOW + 120, 120)
    assert policy().decide(delivery(), status, None, NOW).pause_host == PAUSES[0]


def test_other_failures_pause_nobody_else() -> None:
    assert policy().decide(delivery(), 500, None, NOW).pause_host == 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, 0),
        ("", 0),
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


def test_an_absurd_retry_after_is_cut() -> None:
    late = delivery(expires_at=NOW + 10**9)
    assert policy().decide(late, 503, "99999999", NOW).due == NOW + 86400


def test_a_shorter_retry_after_does_not_shorten_the_pause() -> None:
    assert policy().decide(delivery(1), 503, "1", NOW).due == NOW + 300
