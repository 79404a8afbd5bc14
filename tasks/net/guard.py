"""Decides whether an address that an outsider named may be called, and where it leads.

A name is resolved once; the connection then goes to the addresses that were checked, so that
a second look-up with another answer is of no use to anybody.
"""

import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

from tasks.net.addresses import is_public, parse_address
from tasks.net.allow import Allow
from tasks.net.errors import UrlNotAllowedError, UrlUnreachableError

#: Addresses of a host, in the order in which they are to be tried; raises OSError.
Resolver = Callable[[str, int], Sequence[str]]

_PORTS: Final = {"http": 80, "https": 443}
_MAX_LENGTH: Final = 2048
# Half a surrogate pair, which JSON can spell, cannot be sent.
_BAD_SIGNS: Final = re.compile(r"[\x00-\x20\x7f\\\ud800-\udfff]")
_HOST: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\Z")
#: A last label like this makes browsers and `inet_aton` read the host as an IPv4 address.
_NUMBER: Final = re.compile(r"(0x[0-9a-f]*|[0-9]+)\Z")
_SAFE: Final = "%/:?#[]@!$&'()*+,;=~"
_NOT_PUBLIC: Final = (
    "This address may not be called: its host is not on the public internet. "
    "An operator can open it with RMBG_URL_ALLOW."
)


@dataclass(frozen=True, slots=True)
class Target:
    """A checked address.

    Attributes:
        scheme: http or https.
        host: name or literal address, in ASCII; for SNI and certificates.
        port: to connect to.
        addresses: literal addresses that were checked, in the order to try.
        path: with the query.
    """

    scheme: str
    host: str
    port: int
    addresses: tuple[str, ...]
    path: str

    @property
    def host_header(self) -> str:
        """`Host` as HTTP wants it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def resolve(host: str, port: int) -> list[str]:
    """The system's look-up."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True, slots=True)
class Guard:
    """Checks addresses, with the operator's exceptions."""

    allow: Allow
    resolve: Resolver = resolve

    def check(self, url: str) -> Target:
        """Where a URL leads.

        Raises:
            UrlNotAllowedError: it is malformed, or leads to what is not public.
            UrlUnreachableError: its host has no address.
        """
        parts = _split(url)
        host, port = _host(parts), _port(parts)
        addresses = self._addresses(host, port)
        path = quote(parts.path or "/", safe=_SAFE) + (
            f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
        )
        return Target(parts.scheme, host, port, addresses, path)

    def _addresses(self, host: str, port: int) -> tuple[str, ...]:
        found = self._look_up(host, port)
        if not self.allow.host(host):
            for text in found:
                self._require_open(text)
        return found

    def _look_up(self, host: str, port: int) -> tuple[str, ...]:
        if parse_address(host) is not None:
            return (host,)
        try:
            found = tuple(self.resolve(host, port))
        except (OSError, UnicodeError):
            found = ()
        if not found:
            raise UrlUnreachableError("The address's host is not known to the name service.")
        return found

    def _require_open(self, text: str) -> None:
        # A zone ("%eth0") belongs to link-local addresses alone.
        address = parse_address(text)
        if address is None or not (is_public(address) or self.allow.address(address)):
            raise UrlNotAllowedError(_NOT_PUBLIC)


def _split(url: str) -> SplitResult:
    if len(url) > _MAX_LENGTH:
        raise UrlNotAllowedError(f"The address is longer than {_MAX_LENGTH} characters.")
    if _BAD_SIGNS.search(url):
        raise UrlNotAllowedError("The address holds a space, a control sign or a backslash.")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UrlNotAllowedError("The address is malformed.") from None
    if parts.scheme not in _PORTS:
        raise UrlNotAllowedError("Give an address that begins with http:// or https://.")
    if "@" in parts.netloc:
        raise UrlNotAllowedError("Leave user name and password out of the address.")
    return parts


def _host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    if parts.netloc.startswith("["):
        address = parse_address(host)
        if address is None or "%" in host:
            raise UrlNotAllowedError("The address's host is no IPv6 address.")
        return str(address)
    name = _ascii(host).rstrip(".")
    if _NUMBER.match(name.rpartition(".")[2]) and parse_address(name) is None:
        raise UrlNotAllowedError("Write an IPv4 address as four decimal numbers.")
    if not _HOST.match(name):
        raise UrlNotAllowedError("The address has no valid host.")
    return name


def _ascii(host: str) -> str:
    """An international name as it stands in the name service; full-width digits become plain."""
    try:
        return host.encode("idna").decode().lower()
    except UnicodeError:
        raise UrlNotAllowedError("The address has no valid host.") from None


def _port(parts: SplitResult) -> int:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise UrlNotAllowedError("The address's port is not between 1 and 65535.")
    return port or _PORTS[parts.scheme]
