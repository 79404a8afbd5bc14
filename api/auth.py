"""Who is calling."""

from flask import g

from tasks.owners import ANONYMOUS, Owner


def current_owner() -> Owner:
    """The owner on whose behalf this request is handled; anybody while keys are off."""
    owner: Owner = g.get("owner", ANONYMOUS)
    return owner
