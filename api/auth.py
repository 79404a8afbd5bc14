"""Who calls, and what is theirs.

An API key (`X-API-Key` or a bearer token) names the owner of a request. Tasks and batches of other
owners answer 404. A service that others can reach refuses to start without a key.
"""

from collections.abc import Iterable
from typing import Final, cast

from flask import Flask, current_app, g, request

from api.callers import OWNER, came_by_proxy, given_key
from api.errors import ApiError
from api.origins import host_name, is_loopback, is_own_page, refuse_foreign_pages
from api.services import Services
from api.settings import ApiSettings
from tasks.api_keys import ANONYMOUS, ApiKeys, Owner
from tasks.errors import QueueUnavailableError, SettingsError
from tasks.jobs.batches import Batch
from tasks.jobs.job import Job

#: Key of the extension that holds an application's services.
SERVICES_EXTENSION: Final = "rmbg"
#: Configuration key of an application that only this machine can reach.
LOOPBACK_ONLY: Final = "RMBG_LOOPBACK_ONLY"
#: Where every request, and every answer, is one owner's.
FOR_OWNERS: Final = ("/api/", "/v1.0/")
_HOW: Final = "Send your API key in the header X-API-Key, or as `Authorization: Bearer <key>`."


def services() -> Services:
    """Return the services of the application that handles this request."""
    return cast("Services", current_app.extensions[SERVICES_EXTENSION])


def install_auth(app: Flask) -> None:
    """Identify the owner of each request below `/api/` and `/v1.0/` before it is handled."""

    @app.before_request
    def _identify() -> None:
        # A CORS preflight request carries no key.
        if request.path.startswith(FOR_OWNERS) and request.method != "OPTIONS":
            identify()


def current_owner() -> Owner:
    """Return the owner of this request; `ANONYMOUS` while keys are off."""
    owner: Owner = g.get("owner", ANONYMOUS)
    return owner


def identify() -> None:
    """Identify the owner of this request, for `current_owner` to return.

    Raises:
        ApiError: `unauthorized`: a key is missing or unknown; without keys, what
            `refuse_foreign_pages` raises.
        QueueUnavailableError: Redis, which holds the keys, does not answer.
    """
    if OWNER not in request.environ:
        request.environ[OWNER] = _owner(given_key(request.environ))
    g.owner = request.environ[OWNER]


def _owner(key: str | None) -> Owner:
    mode = services().settings.auth
    if mode == "off":
        return _anonymous()
    owner = services().runtime.api_keys.find(key) if key else None
    if owner is not None:
        return owner
    if (
        mode == "auto"
        and current_app.config.get(LOOPBACK_ONLY)
        and not services().runtime.api_keys.any()
    ):
        # Even with a key that is not known: clients of remove.bg cannot leave theirs out.
        return _anonymous()
    fault = "An API key is needed." if key is None else "This API key is unknown or was revoked."
    raise ApiError("unauthorized", f"{fault} {_HOW}")


def _anonymous() -> Owner:
    """Let in a request without a key, unless a web page of another origin may have sent it."""
    local = bool(current_app.config.get(LOOPBACK_ONLY))
    refuse_foreign_pages(request, services().settings, loopback_only=local)
    return ANONYMOUS


def require_operator() -> None:
    """Let only operators go on, see `is_operator`.

    Raises:
        ApiError: `operators_only`.
    """
    if not is_operator():
        raise ApiError("operators_only")


def is_operator() -> bool:
    """Return whether the caller may look after the service: by its key, or from this machine.

    Where no key is asked for, callers that come by a proxy and pages of other origins may not.
    """
    owner = current_owner()
    if not owner.anonymous:
        return owner.operator
    here = bool(current_app.config.get(LOOPBACK_ONLY)) and is_loopback(host_name(request.host))
    settings = services().settings
    by_proxy = bool(settings.trusted_proxies) or came_by_proxy(request.headers)
    return here and not by_proxy and is_own_page(request, settings)


def require_owned(job: Job | None) -> Job:
    """Return a job if there is one and the caller owns it.

    Raises:
        ApiError: `task_not_found`, also for a job of another owner.
    """
    if job is None or job.owner != current_owner().id:
        raise ApiError("task_not_found")
    return job


def get_owned_task(task_id: str) -> Job:
    """Return the caller's job of an id; see `require_owned`."""
    return require_owned(services().runtime.job_store.get(task_id))


def get_owned_batch(batch_id: str) -> Batch:
    """Return a batch of the caller's.

    Raises:
        ApiError: `batch_not_found`: there is none, or another owner has it.
    """
    batch = services().runtime.batches.get(batch_id)
    if batch is None or batch.owner != current_owner().id:
        raise ApiError("batch_not_found")
    return batch


def loopback_only(addresses: Iterable[object]) -> bool:
    """Return whether only this machine can reach what is bound to the addresses; in doubt, False.

    Args:
        addresses: tuples of host, port and more; paths of Unix sockets; file descriptors.
    """
    return all(map(_is_local, addresses))


def _is_local(address: object) -> bool:
    if isinstance(address, int):
        return False  # an inherited socket, wherever it listens
    if not isinstance(address, tuple):
        return True  # a Unix socket
    return is_loopback(str(address[0]).strip("[]"))


def refuse_public_bind_without_keys(
    settings: ApiSettings, addresses: Iterable[object], api_keys: ApiKeys
) -> None:
    """Refuse to listen where others can reach the service while it has no API key.

    Raises:
        SettingsError: there is no key. Without Redis no request is let in, so that is no reason.
    """
    if settings.auth == "off" or loopback_only(addresses):
        return
    try:
        if api_keys.any():
            return
    except QueueUnavailableError:
        return
    raise SettingsError(
        "The service would listen where others can reach it, and has no API keys. Make one with "
        "`rmbg keys add NAME`, or listen on 127.0.0.1, or set RMBG_AUTH=off if a proxy or a closed "
        "network controls who can reach it."
    )
