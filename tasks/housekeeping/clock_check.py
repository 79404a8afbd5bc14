"""The check of the clock before anything expires: one that jumps must not end or erase everything.

A jump looks the same as a service that was stopped for as long. So erasing waits in both cases, in
either direction, and goes on once the clock has run evenly for a while or an operator confirms it.

The sweeper asks. Whatever else ends by the clock (jobs by their deadlines, webhook deliveries with
their pictures) reads in Lua what the sweeper has found: `has_passed` in `tasks/lua/shared.lua`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

import structlog
from redis import Redis

from tasks import redis_keys
from tasks.lua_scripts import PRIMITIVES, set_absent
from tasks.redis_client import redis_errors

#: The largest step of the clock from one pass to the next, and the largest difference from Redis's
#: clock, at which erasing goes on. Passes are seconds apart. `shared.lua` has the same limit.
MAX_STEP_SECONDS: Final = 600.0
#: How long a clock that has jumped must run evenly until it counts. Time daemons correct a wrong
#: clock within 34 min: they ask every 2048 s at most (systemd-timesyncd).
CONFIRM_SECONDS: Final = 2400.0
#: How long the metric shows a pause after the pass that found it.
_SHOWN_SECONDS: Final = 60

_GOES_ON: Final = (
    f"once the clock has run evenly for {CONFIRM_SECONDS / 60:.0f} min, or at once after: "
    "celery -A tasks.app jobs trust-clock"
)
_CHECK: Final = f"check the clocks; erasing and deadlines go on {_GOES_ON}"
_NOTHING_TO_DO: Final = (
    f"nothing is to be done if the service was stopped: erasing and deadlines go on {_GOES_ON}"
)

_log = structlog.get_logger(__name__)


def _redis_time(client: Redis) -> float:
    seconds, microseconds = client.time()
    return seconds + microseconds / 1e6


@dataclass(frozen=True, slots=True)
class ClockCheck:
    """Compares the clock with the time of the last pass, kept in Redis, and with Redis's clock."""

    client: Redis
    clock: Callable[[], float] = time.time
    redis_time: Callable[[Redis], float] = _redis_time

    def trusted_time(self) -> float | None:
        """Return the unix time; None, after an error in the log, while it may be wrong.

        Raises:
            QueueUnavailableError
        """
        now = self.clock()
        with redis_errors():
            difference = now - self.redis_time(self.client)
            known = cast("dict[str, str]", self.client.hgetall(redis_keys.SWEEPER_CLOCK))
        if abs(difference) > MAX_STEP_SECONDS:
            # Which one is wrong, nobody here can tell, and no time that passes will.
            self._pause("this machine's clock and that of Redis differ", difference, is_fault=True)
            return None
        step = now - float(known.get("last", now))
        doubted = known.get("doubted_since")
        if abs(step) > MAX_STEP_SECONDS:
            doubted = str(now)
        confirmed = doubted is None or now - float(doubted) >= CONFIRM_SECONDS
        self._record(now, None if confirmed else doubted)
        if not confirmed:
            self._pause(_reason(step), step, is_fault=step < 0)
            return None
        return now

    def confirm(self) -> None:
        """Trust Redis's clock as it is now; an operator has looked at it.

        Raises:
            QueueUnavailableError
        """
        with redis_errors():
            self._record(self.redis_time(self.client), None)
            self.client.delete(redis_keys.SWEEPER_PAUSED)

    def _record(self, now: float, doubted_since: str | None) -> None:
        with redis_errors():
            PRIMITIVES.run(self.client, "note_clock", now=now, doubted_since=doubted_since)

    def _pause(self, reason: str, seconds: float, *, is_fault: bool) -> None:
        with redis_errors():
            shown = self.client.expire(redis_keys.SWEEPER_PAUSED, _SHOWN_SECONDS)
            shown = shown or not set_absent(
                self.client, redis_keys.SWEEPER_PAUSED, reason, seconds=_SHOWN_SECONDS
            )
        if not shown:
            log, advice = (_log.error, _CHECK) if is_fault else (_log.warning, _NOTHING_TO_DO)
            log("retention.paused", reason=reason, seconds=round(seconds), advice=advice)


def _reason(step: float) -> str:
    """Say what lies between two passes, of which the later one is after the pause began."""
    if step < 0:
        return f"the clock was set back by {-step / 60:.0f} min"
    if step > MAX_STEP_SECONDS:
        return f"no I/O worker ran for {step / 60:.0f} min, or the clock was set forward"
    return "the service began again, or its clock changed, a short time ago"
