"""Whose a job is: the holder of an API key, or anybody where keys are off."""

from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Owner:
    """A tenant: one key, and what goes with it.

    Attributes:
        id: stable over every change of the key's settings; empty for anybody.
        name: what the operator calls it.
        rate_per_minute: pictures that it may submit in a minute; None for any number.
        models: those that it may use; None for all.
        webhook_url: where its tasks report to, unless a task says otherwise.
        webhook_secret: `whsec_…`, which its webhooks are signed with.
        old_webhook_secret: the one before, which is valid beside the new one for a while.
        old_webhook_secret_until: the unix time at which that ends.
        revoked: its key is no longer taken; what it began goes on to its end.
    """

    id: str
    name: str
    rate_per_minute: float | None = None
    models: tuple[str, ...] | None = None
    webhook_url: str | None = None
    webhook_secret: str | None = field(default=None, repr=False)
    old_webhook_secret: str | None = field(default=None, repr=False)
    old_webhook_secret_until: float = 0.0
    created_at: float = 0.0
    revoked: bool = False

    @property
    def anonymous(self) -> bool:
        """Is this anybody, no key having been asked for?"""
        return not self.id

    def signing_secrets(self, now: float) -> tuple[str, ...]:
        """What a webhook is signed with at a unix time, the newest first; none if it has none."""
        old = self.old_webhook_secret if now < self.old_webhook_secret_until else None
        return tuple(secret for secret in (self.webhook_secret, old) if secret)

    def may_use(self, model: str) -> bool:
        """Is a model among those that this key is for?"""
        return self.models is None or model in self.models


#: Whoever calls while keys are off.
ANONYMOUS: Final = Owner(id="", name="anonymous")
