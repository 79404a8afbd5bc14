"""Who asks: what tells callers apart, for turns, places, connections and rates."""

from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address
from typing import Any, Final

from flask import current_app, has_request_context, request
from werkzeug.datastructures import Headers

from tasks.api_keys import ANONYMOUS, Owner

#: Configuration key of the number of proxies whose `X-Forwarded-For` counts.
TRUSTED_PROXIES: Final = "RMBG_TRUSTED_PROXIES"
#: Key of the environ that has the owner of the request, once its key was let in.
OWNER: Final = "rmbg.owner"
#: Headers of a request that came by a proxy, whose own address tells nothing.
_OF_PROXIES: Final = frozenset({"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip"})
#: Whoever has an IPv6 address has this much of it: a network of 2^64 addresses.
_NETWORK_BITS: Final = 64


def current_caller() -> str:
    """Return what tells the caller of this request apart; empty outside of a request."""
    if not has_request_context():
        return ""
    return caller_of(request.environ, current_app.config.get(TRUSTED_PROXIES, 0))


def caller_of(environ: Mapping[str, Any], proxies: int) -> str:
    """Return the owner of a request if its key was let in, else where it comes from.

    Nobody gets more by other spellings of a key, by keys that nobody has, or by more addresses of
    one network.
    """
    owner: Owner = environ.get(OWNER, ANONYMOUS)
    if not owner.anonymous:
        return owner.id
    return f"from {client_network(client_address(environ, proxies))}"


def client_address(environ: Mapping[str, Any], proxies: int) -> str:
    """Return the address that a request comes from, as the trusted proxies forward it."""
    peer = str(environ["REMOTE_ADDR"])
    forwarded = str(environ.get("HTTP_X_FORWARDED_FOR", "")).split(",") if proxies else []
    if len(forwarded) < max(proxies, 1):
        return peer
    return forwarded[-proxies].strip() or peer


def came_by_proxy(headers: Headers) -> bool:
    """Return whether a request says that it came by a proxy, trusted or not."""
    return any(name in headers for name in _OF_PROXIES)


def client_network(address: str) -> str:
    """Return what one client can have of an address: all of it by IPv4, a /64 by IPv6."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    host_bits = 128 - _NETWORK_BITS
    return f"{IPv6Address(int(parsed) >> host_bits << host_bits)}/{_NETWORK_BITS}"


def given_key(environ: Mapping[str, Any]) -> str | None:
    """Return the key that a request carries in either header; an empty one counts as none."""
    given = str(environ.get("HTTP_X_API_KEY", "")).strip()
    scheme, _, token = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    return given or bearer or None
