"""Whether anybody but this machine can reach the service, and if so, whether it has keys."""

import ipaddress
from collections.abc import Iterable

from api.settings import ApiSettings
from tasks.api_keys import ApiKeys
from tasks.errors import QueueUnavailableError, SettingsError

#: What a socket is bound to: host and port (and more), or the path of a Unix socket.
Address = tuple[object, ...] | str | bytes | int


def loopback_only(addresses: Iterable[Address]) -> bool:
    """Does each address belong to this machine alone? What cannot be told does not."""
    return all(map(_is_local, addresses))


def _is_local(address: Address) -> bool:
    if isinstance(address, int):
        return False  # an inherited socket, wherever it listens
    if not isinstance(address, tuple):
        return True  # a Unix socket
    host = str(address[0])
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def require_keys(settings: ApiSettings, addresses: Iterable[Address], api_keys: ApiKeys) -> None:
    """Refuse to serve an address that others can reach without a single key.

    Raises:
        SettingsError: there is none. While Redis is away nobody is let in, so that is no reason.
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
        "`rmbg keys add NAME`, or listen on 127.0.0.1, or set RMBG_AUTH=off if something in front "
        "of it, or a closed network, sees to who may use it."
    )
