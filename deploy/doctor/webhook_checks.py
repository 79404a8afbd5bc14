"""Can webhooks be signed, and were some given up?"""

from typing import Final

from deploy.doctor.findings import Finding, ok, warn
from tasks.settings import Settings
from tasks.webhooks.store import DeliveryStore

_MOST: Final = 1000


def check_webhooks(deliveries: DeliveryStore, settings: Settings) -> Finding:
    """One line. That nobody without a key can have webhooks is a choice, and no fault."""
    dead = deliveries.dead(_MOST)
    if dead:
        number = f"{_MOST} or more" if len(dead) == _MOST else str(len(dead))
        return warn(
            "webhooks",
            f"{number} were given up, the latest because: {dead[0].reason}",
            "look: celery -A tasks.app webhooks list --dead; then replay or drop them",
        )
    if settings.webhook_secret is None:
        return ok("webhooks", "none was given up; RMBG_WEBHOOK_SECRET is not set: API keys only")
    return ok("webhooks", "none was given up; signed with RMBG_WEBHOOK_SECRET, or a key's secret")
