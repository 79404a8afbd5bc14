"""Which names this service is called by, and whose web pages may call it while it asks for no key.

A page that a browser on this machine or in this network shows can send requests here. Without an
API key nothing else tells them from the user's own. So the header `Host` has to be a name of this
service, which it is not after DNS rebinding, and `Origin` and `Sec-Fetch-Site` must not say that
the page is of another origin, unless `RMBG_CORS_ORIGINS` names that.
"""

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from flask import Request

from api.errors import ApiError
from api.settings import ApiSettings

#: What a browser says of requests of the service's own pages, and of addresses that a user typed.
_OWN_SITES: Final = frozenset({"same-origin", "none"})


def host_name(authority: str) -> str:
    """Return the host of `host:port` in lower case; empty if it cannot be read."""
    try:
        return (urlsplit(f"//{authority}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Return whether a host, by name or address, is this machine's loopback."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    # An IPv4 client of an IPv6 socket.
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def refuse_foreign_pages(request: Request, settings: ApiSettings, *, loopback_only: bool) -> None:
    """Refuse a request without a key that a web page of another origin may have sent.

    Raises:
        ApiError: `host_not_trusted` or `origin_not_allowed`.
    """
    if not _is_trusted(host_name(request.host), settings, loopback_only=loopback_only):
        raise ApiError("host_not_trusted")
    allowed = settings.cors_allowed
    if "*" in allowed or _origin(request) in allowed:
        return
    if not is_own_page(request, settings):
        raise ApiError("origin_not_allowed")


def is_own_page(request: Request, settings: ApiSettings) -> bool:
    """Return whether a request comes from a page of this service, or from no page."""
    origin = _origin(request)
    own_page = origin is None or origin.partition("://")[2] in _own_authorities(request, settings)
    return own_page and request.headers.get("Sec-Fetch-Site", "none") in _OWN_SITES


def _is_trusted(host: str, settings: ApiSettings, *, loopback_only: bool) -> bool:
    if is_loopback(host) or host in settings.trusted_names:
        return True
    # Rebinding needs a name: a page at an address is of that address.
    return not loopback_only and _is_address(host)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _origin(request: Request) -> str | None:
    """Return the origin of the page that sent a request, as far as the browser says."""
    origin = request.headers.get("Origin")
    if origin is not None:
        return origin.lower()
    # Pictures and forms by GET carry no `Origin`. A page can leave this header out, not forge it.
    scheme, _, rest = request.headers.get("Referer", "").partition("://")
    return f"{scheme}://{rest.partition('/')[0]}".lower() if rest else None


def _own_authorities(request: Request, settings: ApiSettings) -> set[str]:
    """Return `host:port` of this service's own pages, as they are called now or from outside."""
    own = {request.host.lower()}
    return own | {settings.public_address.netloc} if settings.public_address else own
