"""What a Redis URL means: one server, a socket, or the master that sentinels name.

The service's clients and Celery's connections are built from it alike. All of them close a
connection on which the server says that it is no master, or not ready yet.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from inspect import signature
from types import MappingProxyType
from typing import Any, Final, Self, TypeVar, cast
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlencode, urlsplit

from redis import ConnectionPool
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.exceptions import BusyLoadingError, OutOfMemoryError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry
from redis.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from tasks.key_prefix import with_prefix

#: A command that a server refuses is tried again after pauses of 0.1, 0.2 and 0.4 s.
_PAUSES: Final = ExponentialBackoff(cap=0.4, base=0.05)
_RETRIES: Final = 3

_Kind = TypeVar("_Kind", bound=AbstractConnection)

#: How a URL may begin, by whether sentinels are asked.
_SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
_SENTINEL: Final = "+sentinel"
_REDIS_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_DEFAULT_MASTER: Final = "mymaster"
#: How long a sentinel may take to answer, before the next one is asked.
_SENTINEL_SECONDS: Final = 1.0

#: What the names of TLS options begin with.
_TLS_PREFIX: Final = "ssl_"
#: How redis-py may check a server's certificate; optional is the same as required in a client.
_CERTIFICATE_CHECKS: Final = ("required", "optional", "none")
#: The other options of a URL. Timeouts, retries and the like are the service's own.
_OPTIONS: Final = frozenset({"db", "client_name"})
_SENTINEL_OPTIONS: Final = frozenset({"sentinel_username", "sentinel_password"})

#: How a server refuses commands that another one would take, or itself a little later: a replica;
#: one that is loading its data; a replica without its master, a master without its replicas; one
#: that was made a replica while a command waited; a proxy or cluster without a master.
_REFUSALS: Final = ("READONLY", "LOADING", "MASTERDOWN", "NOREPLICAS", "UNBLOCKED", "CLUSTERDOWN")


class ServerNotReadyError(RedisConnectionError):
    """The server refused a command as a replica, or since it is not ready; nothing was done."""


class _ServiceConnection(AbstractConnection):
    """Puts the service's prefix before keys; closes itself when the server refuses.

    So the next try looks for the server again.
    """

    _key_prefix = ""
    _full_is_away = False
    _answers_read = 0

    def send_command(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - redis's
        """Send a command."""
        super().send_command(*self._prefixed(args), **options)  # type: ignore[no-untyped-call] # redis's

    def pack_commands(self, commands: Iterable[tuple[Any, ...]]) -> Any:  # noqa: ANN401 - redis's
        """Encode the commands of a pipeline."""
        return super().pack_commands([self._prefixed(each) for each in commands])  # type: ignore[no-untyped-call] # redis's

    def _prefixed(self, command: tuple[Any, ...]) -> tuple[Any, ...]:
        return with_prefix(self._key_prefix, command) if self._key_prefix else command

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:  # noqa: ANN401, FBT001, FBT002 - redis's
        """Send commands, of which none is answered yet."""
        super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call] # redis's
        self._answers_read = 0

    def read_response(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - redis's signature
        """Read an answer.

        Raises:
            ServerNotReadyError: a refusal, before any other answer.
            RedisConnectionError: a refusal after others: what they did cannot be tried again.
        """
        try:
            answer = super().read_response(*args, **options)
        except RedisError as error:
            is_full = self._full_is_away and says_full(error)
            if not (is_full or is_refusal(error)):
                self._answers_read += 1
                raise
            self.disconnect()  # type: ignore[no-untyped-call] # redis's
            if is_full:
                raise RedisConnectionError(f"the server is full: {error}") from error
            kind = RedisConnectionError if self._answers_read else ServerNotReadyError
            raise kind(f"the server is no master, or not ready: {error}") from error
        self._answers_read += 1
        return answer


def is_refusal(error: RedisError) -> bool:
    """Return whether a server says that it takes no commands at present."""
    # redis-py takes a code that it knows off the text.
    code = getattr(error, "status_code", None) or str(error).partition(" ")[0]
    return isinstance(error, BusyLoadingError) or code in _REFUSALS


def says_full(error: RedisError) -> bool:
    """Return whether a server refused a write without memory, or without room for its file."""
    return isinstance(error, OutOfMemoryError) or "MISCONF" in str(error)


def refusing(kind: type[_Kind], key_prefix: str = "", *, full_is_away: bool = False) -> type[_Kind]:
    """Return a class of connections that also close themselves when the server refuses.

    Keys are sent with the prefix. With `full_is_away`, a full server counts as one that is away.
    """
    members = {"_key_prefix": key_prefix, "_full_is_away": full_is_away}
    return cast("type[_Kind]", type(kind.__name__, (kind, _ServiceConnection), members))


def refusal_retry() -> Retry:
    """Return redis-py's retries, of refusals alone: by then another server may be the primary.

    A script whose answer was lost has run, and a silent Redis stays silent.
    """
    return Retry(_PAUSES, _RETRIES, (ServerNotReadyError,))


@dataclass(frozen=True, slots=True)
class CeleryBroker:
    """Celery's settings of a broker."""

    url: str
    #: None without TLS.
    use_ssl: dict[str, Any] | None
    #: Where the transport is found; None for the one of the URL's scheme.
    transport: str | None
    transport_options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where Redis is, and as whom to connect."""

    #: The server, or the sentinels; none for a socket.
    hosts: tuple[tuple[str, int], ...]
    #: A socket's path.
    path: str = ""
    #: What the sentinels call the master; empty without sentinels.
    master: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    client_name: str | None = None
    #: TLS options by redis-py's names; None without TLS.
    tls: MappingProxyType[str, Any] | None = None
    #: What the sentinels ask for, by redis-py's names.
    sentinel_login: MappingProxyType[str, str] = field(
        default_factory=lambda: MappingProxyType({}), repr=False
    )
    #: Stands before every key and channel.
    key_prefix: str = ""

    @classmethod
    def parse(cls, url: str, key_prefix: str = "") -> Self:
        """Read a URL.

        Raises:
            ValueError: it cannot be used; the text names why and does not hold the password.
        """
        try:
            parts = urlsplit(url)
            scheme, _, sentinel = parts.scheme.partition("+")
        except ValueError:
            raise ValueError("should look like redis://:password@host:6379/0") from None
        if parts.scheme not in _SCHEMES:
            raise ValueError(
                "should look like redis://:password@host:6379/0, and begin with "
                f"{', '.join(f'{each}://' for each in _SCHEMES)}"
            )
        if parts.fragment or "@" in parts.path + parts.query:
            # No more is told: what stands there may be a part of the password.
            raise ValueError("cannot be read: in a password, / ? # @ are written %2F %3F %23 %40")
        given = {name: values[0] for name, values in parse_qs(parts.query).items()}
        _check_names(given, sentinel=bool(sentinel), is_tls=scheme == "rediss")
        hosts, path = _hosts(parts, _SENTINEL_PORT if sentinel else _REDIS_PORT)
        login, _, _ = parts.netloc.rpartition("@")
        username, _, password = login.partition(":")
        steps = [unquote(each) for each in path.split("/") if each] if hosts else []
        master = (steps.pop(0) if steps else _DEFAULT_MASTER) if sentinel else ""
        return cls(
            hosts,
            path="" if hosts else unquote(path),
            master=master,
            db=_database([*steps, *([given["db"]] if "db" in given else [])]),
            username=unquote(username) or None,
            password=unquote(password) or None,
            client_name=given.get("client_name"),
            tls=_tls_options(url, given) if scheme == "rediss" else None,
            sentinel_login=MappingProxyType(
                {
                    name.removeprefix("sentinel_"): value
                    for name, value in given.items()
                    if name in _SENTINEL_OPTIONS
                }
            ),
            key_prefix=key_prefix,
        )

    @classmethod
    def of(cls, where: Self | str) -> Self:
        """Return an address as it is, or that of a URL."""
        return cls.parse(where) if isinstance(where, str) else where

    def __str__(self) -> str:
        """The address without its password."""
        where = self.path or ",".join(map(_with_port, self.hosts))
        return f"{self.master} of the sentinels {where}" if self.master else where

    @property
    def is_verified(self) -> bool:
        """Whether a server's certificate and host are checked; True without TLS."""
        tls = self.tls
        return tls is None or (tls["ssl_cert_reqs"] != "none" and bool(tls["ssl_check_hostname"]))

    def pool(self, **options: Any) -> ConnectionPool:  # noqa: ANN401 - redis-py's options of a connection
        """Make a pool of connections, each of which asks for the master when it connects."""
        given = {
            "db": self.db,
            "username": self.username,
            "password": self.password,
            "client_name": self.client_name,
            **dict(self.tls or {}),
            "retry": refusal_retry(),
            **options,
        }
        if self.path:
            for name in ("socket_connect_timeout", "socket_keepalive"):
                given.pop(name, None)
            return ConnectionPool(
                connection_class=refusing(UnixDomainSocketConnection, self.key_prefix),
                path=self.path,
                **given,
            )
        if not self.master:
            [(host, port)] = self.hosts
            tcp: type[Connection] = Connection if self.tls is None else SSLConnection
            kind = refusing(tcp, self.key_prefix)
            return ConnectionPool(connection_class=kind, host=host, port=port, **given)
        sentinels = Sentinel(  # type: ignore[no-untyped-call] # redis leaves it so
            self.hosts, sentinel_kwargs=self._sentinel_options()
        )
        managed = SentinelManagedConnection if self.tls is None else SentinelManagedSSLConnection
        return SentinelConnectionPool(  # type: ignore[no-untyped-call] # redis leaves it so
            self.master, sentinels, connection_class=refusing(managed, self.key_prefix), **given
        )

    def _sentinel_options(self) -> dict[str, Any]:
        """Return the options of a connection to a sentinel: the same TLS, a login of their own."""
        limits = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), _SENTINEL_SECONDS)
        tls = {"ssl": True, **self.tls} if self.tls is not None else {}
        return {**limits, "retry": Retry(NoBackoff(), 0), **tls, **self.sentinel_login}

    def celery_broker(self) -> CeleryBroker:
        """Return what gives Celery the same connection.

        Celery reads the options of a URL in its own way, and verifies no certificate where a URL
        has none. So it gets them as redis-py understands them.
        """
        options: dict[str, Any] = {"client_name": self.client_name} if self.client_name else {}
        if self.key_prefix:
            options["global_keyprefix"] = self.key_prefix
        use_ssl = None if self.tls is None else dict(self.tls)
        login = self._login()
        if self.path:
            query = urlencode({"virtual_host": self.db})
            return CeleryBroker(
                f"redis+socket://{login}{quote(self.path)}?{query}", None, None, options
            )
        if not self.master:
            scheme = "redis" if self.tls is None else "rediss"
            url = f"{scheme}://{login}{_with_port(self.hosts[0])}/{self.db}"
            return CeleryBroker(url, use_ssl, "tasks.celery_transport:Transport", options)
        urls = (f"sentinel://{login}{_with_port(host)}/{self.db}" for host in self.hosts)
        options["master_name"] = self.master
        options["sentinel_kwargs"] = self._sentinel_options()
        return CeleryBroker(
            ";".join(urls), use_ssl, "tasks.celery_transport:SentinelTransport", options
        )

    def _login(self) -> str:
        if self.username is None and self.password is None:
            return ""
        return f"{quote(self.username or '', safe='')}:{quote(self.password or '', safe='')}@"


def _with_port(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check_names(given: dict[str, str], *, sentinel: bool, is_tls: bool) -> None:
    """Raise ValueError unless the service knows all options."""
    tls = sorted(name for name in given if name.startswith(_TLS_PREFIX))
    if tls and not is_tls:
        raise ValueError(f"{', '.join(tls)}: only a rediss:// URL has TLS")
    known = _OPTIONS | (_SENTINEL_OPTIONS if sentinel else frozenset())
    if unknown := sorted(
        name for name in given if name not in known and not name.startswith(_TLS_PREFIX)
    ):
        raise ValueError(
            f"has the option {', '.join(unknown)}, which the service does not take: user and "
            "password stand before the host, timeouts are its own; it takes "
            f"{', '.join(sorted(known))}, and ssl_* with rediss://"
        )


def _hosts(parts: SplitResult, default_port: int) -> tuple[tuple[tuple[str, int], ...], str]:
    """Return the hosts with their ports, none for a socket, and the path behind them."""
    _, _, place = parts.netloc.rpartition("@")
    if parts.scheme == "unix":
        if place or len(parts.path) <= 1:
            raise ValueError("should have a socket's whole path: unix:///run/redis.sock?db=0")
        return (), parts.path
    names = [each for each in place.split(",") if each] or ["localhost"]
    if len(names) > 1 and not parts.scheme.endswith(_SENTINEL):
        raise ValueError(
            "names several hosts: with sentinels it begins with redis+sentinel://; a cluster is "
            "not supported"
        )
    return tuple(_host(each, default_port) for each in names), parts.path


def _host(text: str, default_port: int) -> tuple[str, int]:
    try:
        read = urlsplit(f"//{text}")
        return unquote(read.hostname or "localhost"), read.port or default_port
    except ValueError:
        # It is not named: it may be a part of the password.
        raise ValueError(
            "has a host or port that cannot be read: in a password, / ? # @ are written "
            "%2F %3F %23 %40"
        ) from None


def _database(named: Sequence[str]) -> int:
    """Return the number of the database that a URL names in its path, its options or both."""
    if not all(text.isascii() and text.isdigit() for text in named) or len({*named}) > 1:
        raise ValueError("should name one database, by its number: /3 or ?db=3")
    return int(named[0]) if named else 0


def _tls_options(url: str, given: dict[str, str]) -> MappingProxyType[str, Any]:
    """Return the TLS options as redis-py understands them, with its defaults."""
    if unknown := sorted(
        name
        for name in given.keys() - signature(SSLConnection).parameters.keys()
        if name.startswith(_TLS_PREFIX)
    ):
        raise ValueError(f"redis-py has no option {', '.join(unknown)}")
    if given.get("ssl_cert_reqs", "required") not in _CERTIFICATE_CHECKS:
        raise ValueError(f"ssl_cert_reqs is one of {', '.join(_CERTIFICATE_CHECKS)}")
    options = parse_url(f"rediss://localhost/?{urlsplit(url).query}")  # type: ignore[no-untyped-call] # redis leaves it so
    read = {name: value for name, value in options.items() if name.startswith(_TLS_PREFIX)}
    return MappingProxyType({"ssl_cert_reqs": "required", "ssl_check_hostname": True, **read})
