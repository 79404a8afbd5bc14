"""What follows from an attempt: done, another one later, or the end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from tasks.webhooks.delivery import Delivery, State

#: Answers by which a receiver says that it has too much to do.
BUSY: Final = frozenset({429, 502, 503, 504})
GONE: Final = 410
_SUCCESS: Final = range(200, 300)
#: A `Retry-After` beyond this is not believed.
_LONGEST_PAUSE_SECONDS: Final = 24 * 3600.0
_JITTER: Final = 0.1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a delivery.

    Attributes:
        state: that follows.
        due: unix time of the next attempt; of the end if there is none.
        reason: why it is dead.
        pause_host: seconds for which its host is left alone.
        disable: its target is not to be called again.
    """

    state: State
    due: float
    reason: str = ""
    pause_host: float = 0.0
    disable: bool = False


@dataclass(frozen=True, slots=True)
class Schedule:
    """When to try again.

    Attributes:
        pauses: seconds after the first, second, ... failure.
        random: from 0 up to 1, for the jitter.
    """

    pauses: Sequence[float]
    random: Callable[[], float]

    def judge(
        self, delivery: Delivery, status: int | None, retry_after: str | None, now: float
    ) -> Verdict:
        """What follows from one more attempt.

        Args:
            delivery: as it was before it.
            status: of the answer; None if there was none.
            retry_after: that header.
            now: unix time of the answer.
        """
        if status in _SUCCESS:
            return Verdict(State.DELIVERED, now)
        if status == GONE:
            return Verdict(State.DEAD, now, "The receiver answered 410 Gone.", disable=True)
        asked = min(pause_asked_for(retry_after, now), _LONGEST_PAUSE_SECONDS)
        if delivery.tries >= len(self.pauses):
            return Verdict(State.DEAD, now, f"{delivery.tries + 1} attempts failed.")
        due = now + max(self._jittered(self.pauses[delivery.tries]), asked)
        if due >= delivery.expires_at:
            return Verdict(State.DEAD, now, "The pictures expire before the next attempt.")
        busy = status in BUSY
        return Verdict(State.PENDING, due, pause_host=max(asked, self.pauses[0]) if busy else 0.0)

    def _jittered(self, seconds: float) -> float:
        """Up to a tenth more or less, lest all of an outage's events come at the same moment."""
        return seconds * (1 + _JITTER * (2 * self.random() - 1))


def pause_asked_for(text: str | None, now: float) -> float:
    """Seconds that a `Retry-After` asks for, in either of its forms; 0 if it cannot be read."""
    if not text:
        return 0.0
    if text.strip().isdecimal():
        return float(text)
    try:
        instant = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the latter for a year or a zone of very many digits
        return 0.0
    aware = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.fromtimestamp(now, UTC)).total_seconds())
