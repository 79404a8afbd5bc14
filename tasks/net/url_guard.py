"""Protection against server-side request forgery: check a URL, and pin its public address."""

import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

from tasks.errors import UrlNotAllowedError, UrlUnreachableError

Address = IPv4Address | IPv6Address

Network = IPv4Network | IPv6Network

#: Beyond what `ipaddress` of every supported Python calls private or reserved; the IANA
#: special-purpose registries list them.
_SPECIAL: Final = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "100.64.0.0/10",  # shared by carriers' customers (RFC 6598)
        "192.0.0.0/24",
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "198.18.0.0/15",  # benchmarks (RFC 2544)
        "64:ff9b:1::/48",  # NAT64 of a site's own (RFC 8215)
        "100::/64",
        "2001::/23",  # Teredo among them (RFC 4380)
        "2002::/16",  # 6to4 (RFC 3056)
        "3fff::/20",
        "5f00::/16",
        "fec0::/10",
    )
)

_NAT64: Final = ip_network("64:ff9b::/96")  # RFC 6052

_COMPATIBLE: Final = ip_network("::/96")  # RFC 4291, 2.5.5.1

#: The lower half of an ISATAP address before its IPv4 address, local and global (RFC 5214).
_ISATAP: Final = frozenset({0x00005EFE, 0x02005EFE})

_LOW_32: Final = 0xFFFFFFFF


def is_public(address: Address) -> bool:
    """Could anybody on the internet be meant by it?

    Loopback, private, link-local, shared, multicast, documentation and reserved addresses are
    not, nor is an IPv6 address that leads to such an IPv4 address. 6to4 and Teredo, which lead
    through relays that nobody runs any more, are not either.
    """
    if isinstance(address, IPv6Address):
        carried = _embedded_ipv4(address)
        if carried is not None:
            return is_public(carried)
        tunnelled = _tunnel_ipv4(address)
        if tunnelled is not None and not is_public(tunnelled):
            return False
    special = any(address in network for network in _SPECIAL)
    odd = address.is_multicast or address.is_reserved or address.is_unspecified
    return address.is_global and not special and not odd


def _embedded_ipv4(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that this one is only another spelling of: its prefix says so."""
    if address.ipv4_mapped is not None or address in _NAT64 or address in _COMPATIBLE:
        return IPv4Address(int(address) & _LOW_32)
    return None


def _tunnel_ipv4(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that a tunnel may lead to, besides what the prefix means.

    Anybody's IPv6 address may look like that in its lower half, one on a private network too.
    """
    if (int(address) >> 32) & _LOW_32 in _ISATAP:
        return IPv4Address(int(address) & _LOW_32)
    return None


def parse_address(text: str) -> Address | None:
    """An address in its strict spelling, or None."""
    try:
        return ip_address(text)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class AllowList:
    """What the operator opened.

    Attributes:
        hosts: names in lower case; one that begins with a dot stands for all names below it.
        networks: in which an address may lie.
    """

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "AllowList":
        """From `hooks.intra,.shop.intra,10.0.0.0/8,127.0.0.1`.

        Raises:
            ValueError: an entry with a slash is no network.
        """
        hosts, networks = set[str](), list[Network]()
        for entry in filter(None, (part.strip().lower() for part in text.split(","))):
            network = _parse_network(entry)
            if network is None:
                hosts.add(entry.removeprefix("*").rstrip("."))
            else:
                networks.append(network)
        return cls(frozenset(hosts), tuple(networks))

    def host(self, name: str) -> bool:
        """Is a host allowed by its name, wherever that leads?"""
        parts = name.lower().rstrip(".").split(".")
        above = {f".{'.'.join(parts[index:])}" for index in range(1, len(parts))}
        return ".".join(parts) in self.hosts or bool(above & self.hosts)

    def address(self, address: Address) -> bool:
        """Does an address lie in an allowed network?"""
        return any(address in network for network in self.networks)


def _parse_network(entry: str) -> Network | None:
    try:
        return ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        if any(sign in entry for sign in "/:[] "):
            raise ValueError(
                f"{entry!r} is neither a host's name nor a network such as 10.0.0.0/8"
            ) from None
        return None


#: Addresses of a host, in the order in which they are to be tried; raises OSError.
Resolver = Callable[[str, int], Sequence[str]]

_PORTS: Final = {"http": 80, "https": 443}

_MAX_LENGTH: Final = 2048

# Half a surrogate pair, which JSON can spell, cannot be sent.
_FORBIDDEN_CHARACTERS: Final = re.compile(r"[\x00-\x20\x7f\\\ud800-\udfff]")

_HOST: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\Z")

#: A last label like this makes browsers and `inet_aton` read the host as an IPv4 address.
_NUMBER: Final = re.compile(r"(0x[0-9a-f]*|[0-9]+)\Z")

_SAFE: Final = "%/:?#[]@!$&'()*+,;=~"

_NOT_PUBLIC: Final = (
    "This address may not be called: its host is not on the public internet. "
    "An operator can open it with RMBG_URL_ALLOW."
)


@dataclass(frozen=True, slots=True)
class PinnedTarget:
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
class UrlGuard:
    """Checks addresses, with the operator's exceptions."""

    allow: AllowList
    resolve: Resolver = resolve

    def check(self, url: str) -> PinnedTarget:
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
        return PinnedTarget(parts.scheme, host, port, addresses, path)

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
    if _FORBIDDEN_CHARACTERS.search(url):
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
