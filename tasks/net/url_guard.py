"""Protection against server-side request forgery: checks a URL and pins its public addresses."""

import re
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

import structlog

from tasks.errors import UrlNotAllowedError, UrlUnreachableError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
#: Looks up the addresses of a host and port, in the order to try; raises OSError.
Resolver = Callable[[str, int], Sequence[str]]

#: Longest that a name may take to be looked up.
LOOKUP_SECONDS: Final = 5.0

#: Special-purpose networks of the IANA registries that `ipaddress` does not call private or
#: reserved in every supported Python, and what a cloud has in place of one.
_SPECIAL: Final = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "168.63.129.16/32",  # Azure's platform, as its machines see it
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

_PORTS: Final = {"http": 80, "https": 443}
#: Characters of an address. Signed ones with a session token have 1,800 and more; a server reads
#: at least 8,000 of a request's first line (RFC 9112, 3), and an item of a batch has 8 kB.
MAX_URL: Final = 4096
# JSON can spell half a surrogate pair, which cannot be sent.
_FORBIDDEN_CHARACTERS: Final = re.compile(r"[\x00-\x20\x7f-\x9f\\\ud800-\udfff]")
#: Characters of a host (RFC 1035, 2.3.4), with the point that may end it. Encoded, an international
#: name has more: to encode one of 4,000 different letters took 2.2 s.
_MAX_HOST: Final = 254
_HOST: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\Z")
#: With a last label like this, browsers and `inet_aton` read the host as an IPv4 address.
_NUMBER: Final = re.compile(r"(0x[0-9a-f]*|[0-9]+)\Z")
_SAFE: Final = "%/:?#[]@!$&'()*+,;=~"
#: Domains whose names are never public: RFC 6761, 6762 and 8375, and ICANN's for private use.
_LOCAL_DOMAINS: Final = (".localhost", ".local", ".home.arpa", ".internal")
_NOT_PUBLIC: Final = (
    "This address must not be called: its host is not on the public internet. An operator can "
    "allow it with RMBG_URL_ALLOW."
)
#: One sentence, whether a name is unknown or leads inside: who asks must not learn which names
#: there are in the service's network.
_NO_ADDRESS: Final = (
    "The name service gives no public address for the host: check its name. An operator can allow "
    "a host inside with RMBG_URL_ALLOW; the log says why, as `url.refused`."
)

_log = structlog.get_logger(__name__)


def is_public(address: Address) -> bool:
    """Return whether an address belongs to the public internet.

    Loopback, private, link-local, shared, multicast, documentation and reserved addresses do not,
    nor does an IPv6 address that embeds such an IPv4 address. 6to4 and Teredo addresses do not
    either: their relays have been switched off.
    """
    if isinstance(address, IPv6Address):
        low = IPv4Address(int(address) & _LOW_32)
        if address.ipv4_mapped is not None or address in _NAT64 or address in _COMPATIBLE:
            return is_public(low)
        # An ISATAP tunnel leads to an IPv4 address, whatever the prefix, a private one as well.
        if (int(address) >> 32) & _LOW_32 in _ISATAP and not is_public(low):
            return False
    special = any(address in network for network in _SPECIAL)
    odd = address.is_multicast or address.is_reserved or address.is_unspecified
    return address.is_global and not special and not odd


def parse_address(text: str) -> Address | None:
    """Parse an address in its strict spelling; None for any other text."""
    try:
        return ip_address(text)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class AllowList:
    """The operator's exceptions, `RMBG_URL_ALLOW`.

    Attributes:
        hosts: names in lower case; one with a leading dot stands for all names below it.
        networks: whose addresses may be called.
    """

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "AllowList":
        """Parse a list such as `hooks.intra,.shop.intra,10.0.0.0/8,127.0.0.1`.

        Raises:
            ValueError: an entry is neither a host's name nor a network.
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
        """Return whether a host is allowed by its name, at any address."""
        parts = name.lower().rstrip(".").split(".")
        above = {f".{'.'.join(parts[index:])}" for index in range(1, len(parts))}
        return ".".join(parts) in self.hosts or bool(above & self.hosts)

    def address(self, address: Address) -> bool:
        """Return whether an address is in an allowed network."""
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


@dataclass(frozen=True, slots=True)
class PinnedTarget:
    """A checked URL, with the addresses that it may be called at.

    Attributes:
        scheme: http or https.
        host: name or literal address in ASCII, for SNI and certificates.
        port: to connect to.
        addresses: the checked literal addresses, in the order to try.
        path: with the query.
    """

    scheme: str
    host: str
    port: int
    addresses: tuple[str, ...]
    path: str

    @property
    def host_header(self) -> str:
        """The value of the header `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def resolve(host: str, port: int) -> list[str]:
    """Look a host up in the system's name service."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True, slots=True)
class UrlGuard:
    """Checks URLs.

    Attributes:
        allow: the operator's exceptions.
        resolve: looks hosts up.
    """

    allow: AllowList
    resolve: Resolver = resolve

    def check(self, url: str, *, seconds: float = LOOKUP_SECONDS) -> PinnedTarget:
        """Check a URL and pin its addresses: later lookups cannot change where it leads.

        Args:
            url: to be called.
            seconds: time for the lookup, `LOOKUP_SECONDS` at most.

        Raises:
            UrlNotAllowedError: its text shows that it is malformed, or that its host is not public.
            UrlUnreachableError: its host has no address, a private one, or none was found in time.
        """
        parts, host, port = self._parse(url)
        addresses = self._addresses(host, port, min(seconds, LOOKUP_SECONDS))
        path = quote(parts.path or "/", safe=_SAFE) + (
            f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
        )
        return PinnedTarget(parts.scheme, host, port, addresses, path)

    def check_text(self, url: str) -> None:
        """Check a URL as far as its text tells, and look nothing up.

        Raises:
            UrlNotAllowedError: it is malformed, or its host is not public.
        """
        self._parse(url)

    def _parse(self, url: str) -> tuple[SplitResult, str, int]:
        parts = _split(url)
        host, port = _host(parts), _port(parts)
        address = parse_address(host)
        if address is not None:
            allowed = self._may_call(address)
        else:
            # A name inside may lead to a network that is allowed.
            allowed = bool(self.allow.networks) or not _is_local_name(host)
        if not (allowed or self.allow.host(host)):
            raise UrlNotAllowedError(_NOT_PUBLIC)
        return parts, host, port

    def _may_call(self, address: Address | None) -> bool:
        # None: the name service gave a text that is no address.
        return address is not None and (is_public(address) or self.allow.address(address))

    def _addresses(self, host: str, port: int, seconds: float) -> tuple[str, ...]:
        """Look a host up, and return its addresses if all of them may be called."""
        if parse_address(host) is not None:
            return (host,)
        found, reason = self._look_up(host, port, seconds)
        if not self.allow.host(host) and not all(
            self._may_call(parse_address(text)) for text in found
        ):
            reason = "not_public"
        if reason:
            _log.info("url.refused", host=host, reason=reason)
            raise UrlUnreachableError(_NO_ADDRESS)
        return found

    def _look_up(self, host: str, port: int, seconds: float) -> tuple[tuple[str, ...], str]:
        """Look a host up in a thread of its own, since the system's name service knows no deadline.

        Returns:
            Its addresses, and why there are none: `unknown` or `late`.
        """
        answer = Future[Sequence[str]]()

        def look_up() -> None:
            try:
                answer.set_result(self.resolve(host, port))
            except (OSError, UnicodeError):
                answer.set_result(())
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                answer.set_exception(error)

        threading.Thread(target=look_up, name="lookup", daemon=True).start()
        try:
            found = tuple(answer.result(max(0.0, seconds)))
        except TimeoutError:
            return (), "late"
        return found, "" if found else "unknown"


def _is_local_name(host: str) -> bool:
    """Return whether a name is never one of the public internet, whether it is known or not."""
    return "." not in host or f".{host}".endswith(_LOCAL_DOMAINS)


def _split(url: str) -> SplitResult:
    if len(url) > MAX_URL:
        raise UrlNotAllowedError(f"The address is longer than the limit of {MAX_URL} characters.")
    if _FORBIDDEN_CHARACTERS.search(url):
        raise UrlNotAllowedError(
            "The address contains a space, a control character or a backslash; percent-encode it."
        )
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UrlNotAllowedError("The address is malformed.") from None
    if parts.scheme not in _PORTS:
        raise UrlNotAllowedError("Give an address that begins with http:// or https://.")
    if "@" in parts.netloc:
        raise UrlNotAllowedError("The address must not contain a user name or password.")
    return parts


def _host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    if parts.netloc.startswith("["):
        address = parse_address(host)
        if address is None or "%" in host:
            raise UrlNotAllowedError("The host in brackets is not an IPv6 address.")
        return str(address)
    if len(host) > _MAX_HOST:
        raise UrlNotAllowedError(f"The host of the address is longer than {_MAX_HOST} characters.")
    try:
        # Encodes an international name for the name service; full-width digits become ASCII.
        name = host.encode("idna").decode().lower().rstrip(".")
    except UnicodeError:
        raise UrlNotAllowedError("The address has no valid host.") from None
    if _NUMBER.match(name.rpartition(".")[2]) and parse_address(name) is None:
        raise UrlNotAllowedError("Write an IPv4 address as four decimal numbers.")
    if not _HOST.match(name):
        raise UrlNotAllowedError("The address has no valid host.")
    return name


def _port(parts: SplitResult) -> int:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise UrlNotAllowedError("The port of the address is not between 1 and 65535.")
    return port or _PORTS[parts.scheme]
