"""Who is calling: the owner of the key that came along, or anybody where none is asked for."""

from typing import Final

from flask import Flask, current_app, g, request

from api.context import services
from api.errors import ApiError
from tasks.owners import ANONYMOUS, Owner

#: Set for an application that only this machine can reach.
LOOPBACK_ONLY: Final = "RMBG_LOOPBACK_ONLY"
_PROTECTED: Final = "/api/"
_BEARER: Final = "bearer"
_HOW: Final = "Send your API key in the header X-API-Key, or as `Authorization: Bearer <key>`."


def install_auth(app: Flask) -> None:
    """Find out whose each request below `/api/` is, before anything is done with it."""

    @app.before_request
    def _identify() -> None:
        # A browser asks OPTIONS without a key, by the letter of CORS.
        if request.path.startswith(_PROTECTED) and request.method != "OPTIONS":
            identify()


def current_owner() -> Owner:
    """The owner on whose behalf this request is handled; anybody while keys are off."""
    owner: Owner = g.get("owner", ANONYMOUS)
    return owner


def identify() -> Owner:
    """Find out whose this request is; `current_owner` knows from then on.

    Raises:
        ApiError: `unauthorized`: a key is missing, or nobody has this one.
        QueueUnavailableError: Redis, which knows the keys, does not answer.
    """
    g.owner = _owner(_given_key())
    return current_owner()


def _owner(key: str | None) -> Owner:
    mode = services().settings.auth
    if mode == "off":
        return ANONYMOUS
    if (
        mode == "auto"
        and current_app.config.get(LOOPBACK_ONLY)
        and not services().runtime.api_keys.any()
    ):
        # Whatever key was sent: clients of remove.bg cannot leave theirs out.
        return ANONYMOUS
    if key is not None:
        return _holder(key)
    raise ApiError("unauthorized", f"An API key is needed. {_HOW}")


def _holder(key: str) -> Owner:
    owner = services().runtime.api_keys.find(key)
    if owner is None:
        raise ApiError("unauthorized", f"This API key is not known, or was revoked. {_HOW}")
    return owner


def _given_key() -> str | None:
    """The key that came along, in either form; an empty one counts as none."""
    given = request.headers.get("X-API-Key", "").strip()
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == _BEARER else ""
    return given or bearer or None
