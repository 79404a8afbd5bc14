"""How an S3 server is reached: its address, its certificate, and the credentials of a role."""

import configparser
import os
import re
import ssl
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import ParseError

import urllib3
from minio.credentials.credentials import Credentials
from minio.credentials.providers import (
    AWSConfigProvider,
    IamAwsProvider,
    Provider,
)
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from minio.helpers import BaseURL

from tasks.errors import ObjectStoreUnavailableError

#: The region of a server whose address names none.
DEFAULT_REGION: Final = "us-east-1"
#: What S3 clients accept as a region.
REGION_PATTERN: Final = r"^[A-Za-z\d]([A-Za-z\d_-]{0,61}[A-Za-z\d])?$"

#: Credentials are renewed so long before their end; Amazon has new ones five minutes before.
_RENEWED_BEFORE_SECONDS: Final = 300.0
#: Credentials without an end, such as a file's, are read again after this time.
_READ_AGAIN_SECONDS: Final = 60.0
#: The pause after a renewal that failed, or that brought the credentials that there were.
_PAUSE_SECONDS: Final = 5.0
#: A machine without a role has nobody at the address that is asked: requests wait meanwhile.
_CREDENTIAL_TIMEOUT: Final = urllib3.Timeout(connect=2, read=5)

#: Said of a server that does not answer as S3 does.
NO_STORE: Final = (
    "What answers is no object store, or speaks TLS only: check the host, the port and https:// in "
    "RMBG_S3_ENDPOINT."
)
#: What to do about a store's refusal, by its code.
_REMEDIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "AccessDenied": "check the S3 keys, and that they may do what docs/own-servers.md "
        "lists; `rmbg doctor` names what is missing",
        "AllAccessDisabled": "ask the store's operator",
        "InvalidAccessKeyId": "the store does not know the access key: check RMBG_S3_ACCESS_KEY",
        "SignatureDoesNotMatch": "check RMBG_S3_SECRET_KEY; a proxy before the store has to keep "
        "the header Host and the path",
        "RequestTimeTooSkewed": "set this machine's clock or the store's, by NTP for example",
        **dict.fromkeys(
            ("ExpiredToken", "InvalidToken", "InvalidClientTokenId", "TokenRefreshRequired"),
            "the session token has ended or is unknown: renew what RMBG_S3_CREDENTIALS=aws reads",
        ),
        **dict.fromkeys(
            (
                "AuthorizationHeaderMalformed",
                "AuthorizationQueryParametersError",
                "BadRequest",
                "IllegalLocationConstraintException",
                "InvalidLocationConstraint",
                "InvalidRegion",
                "PermanentRedirect",
                "Redirect",
                "TemporaryRedirect",
            ),
            "set RMBG_S3_REGION to the region of the bucket",
        ),
        **dict.fromkeys(
            ("PathStyleRequestNotAllowed", "SecondLevelDomainForbidden"),
            "set RMBG_S3_ADDRESSING_STYLE=virtual",
        ),
    }
)


def check_address(url: str) -> None:
    """Check that an address can be that of an S3 server.

    Raises:
        ValueError: it cannot; the text says what it should be.
    """
    address = urlsplit(url)
    if address.path not in {"", "/"} or address.query or address.fragment:
        raise ValueError(
            "should end behind the host and port: S3 signs the path, which holds the bucket "
            "(RMBG_S3_BUCKET) and the object alone; give a store behind a proxy a host of its own"
        )
    try:
        _base_url(url, DEFAULT_REGION)
    except ValueError as error:
        raise ValueError(
            f"should be the address of the service, such as https://s3.eu-west-1.amazonaws.com, "
            f"with the bucket in RMBG_S3_BUCKET ({error})"
        ) from error


def region_of(url: str) -> str:
    """Return the region that an address of Amazon names, or the default one."""
    try:
        return _base_url(url, None).region or DEFAULT_REGION
    except ValueError:  # An address of Amazon in China that names none.
        return DEFAULT_REGION


def _base_url(url: str, region: str | None) -> BaseURL:
    address = urlsplit(url)
    return BaseURL(f"{address.scheme}://{address.netloc}", region)


def check_authorities(path: Path) -> None:
    """Check that a file holds certificates of authorities, as PEM.

    Raises:
        ValueError: it does not.
    """
    try:
        ssl.create_default_context(cafile=path)
    except (ssl.SSLError, OSError) as error:
        raise ValueError(f"{path} holds no certificates of authorities, as PEM") from error


def explain_failure(error: Exception) -> str:
    """Return in one sentence why a call failed, and what to do about it."""
    if isinstance(error, S3Error):
        return _explain_refusal(error)
    if isinstance(error, ServerError):
        return f"The object store does not answer: status {error.status_code}."
    if isinstance(error, InvalidResponseError | ParseError):
        # minio gives the status in this text alone.
        if " code: 5" in str(error):
            return "The object store does not answer: a proxy before it does."
        return NO_STORE
    if cause := _tls_error(error):
        return _explain_tls(cause)
    innermost = _causes(error)[-1]
    said = innermost.strerror if isinstance(innermost, OSError) else None
    return f"The object store does not answer: {said or type(innermost).__name__}."


def _explain_tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"The object store's certificate is not trusted ({error.verify_message.rstrip('.')}): "
            "name the file of its authority in RMBG_S3_CA_FILE, and in RMBG_S3_ENDPOINT a host "
            "that it was made for."
        )
    return (
        f"TLS with the object store failed ({error.reason or type(error).__name__}): if it "
        "speaks none, RMBG_S3_ENDPOINT begins with http://."
    )


def _explain_refusal(error: S3Error) -> str:
    if error.response.status >= HTTPStatus.INTERNAL_SERVER_ERROR and error.code not in _REMEDIES:
        # SeaweedFS says no more of a disk that is full.
        return (
            f"The object store failed with {error.code}: its own log says why; its disk may be "
            "full, or broken."
        )
    remedy = _REMEDIES.get(error.code or "", "check the S3 keys and the bucket policy")
    # The store's own words name the right region.
    said = f" ({error.message})" if error.message and "REGION" in remedy else ""
    return f"The object store refused with {error.code}{said}: {remedy}."


def is_denied(error: MinioException) -> bool:
    """Return whether the credentials are good, and do not include a permission."""
    return (
        isinstance(error, S3Error)
        and error.code == "AccessDenied"
        and error.response.status == HTTPStatus.FORBIDDEN
    )


def _tls_error(error: Exception) -> ssl.SSLError | None:
    """Return the error of TLS that is behind one of urllib3's."""
    return next((each for each in _causes(error) if isinstance(each, ssl.SSLError)), None)


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error of urllib3 and what it was made for, the innermost last."""
    causes = []
    inner: BaseException | None = error
    while inner is not None and inner not in causes:
        causes.append(inner)
        behind = (getattr(inner, "reason", None), inner.__cause__, *inner.args)
        inner = next((each for each in behind if isinstance(each, BaseException)), None)
    return causes


class RoleCredentials(Provider):
    """Takes credentials from where Amazon's tools look for them, and renews them before their end.

    These are, the first that is configured alone: `AWS_ACCESS_KEY_ID` with its secret and session
    token; a role by the token of a Kubernetes service account (`AWS_WEB_IDENTITY_TOKEN_FILE`); the
    profile of a credentials file; a container's role; the role of an instance of EC2.

    Args:
        variables: Amazon's environment variables.
        region: the region whose token service is asked, unless `AWS_REGION` names one.
        ca_file: authorities to trust instead of the system's.
        clock: returns the time.
    """

    def __init__(
        self,
        variables: Mapping[str, str],
        *,
        region: str,
        ca_file: Path | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._variables = variables
        self._region = region
        self._clock = clock
        self._pool = urllib3.PoolManager(
            timeout=_CREDENTIAL_TIMEOUT,
            retries=False,
            ca_certs=str(ca_file) if ca_file else None,
        )
        self._lock = threading.Lock()
        self._credentials: Credentials | None = None
        #: Why there are none.
        self._problem = ""
        #: POSIX time of the next renewal.
        self._renewal = 0.0

    def retrieve(self) -> Credentials:
        """Return credentials that have not ended.

        Raises:
            ObjectStoreUnavailableError: there are none.
        """
        # While one thread renews credentials that still work, the others use these.
        if self._lock.acquire(blocking=self._usable() is None):
            try:
                if self._clock().timestamp() >= self._renewal:
                    self._renew()
            finally:
                self._lock.release()
        credentials = self._usable()
        if credentials is None:
            raise ObjectStoreUnavailableError(
                f"There are no credentials for the object store: {self._problem} Check what "
                "RMBG_S3_CREDENTIALS=aws takes them from."
            )
        return credentials

    def _usable(self) -> Credentials | None:
        credentials = self._credentials
        return credentials if credentials and self.seconds_left(credentials) > 0 else None

    def seconds_left(self, credentials: Credentials) -> float:
        """Return for how long credentials are valid."""
        if credentials.expiration is None:
            return float("inf")
        end = credentials.expiration.replace(tzinfo=UTC)
        return (end - self._clock()).total_seconds()

    def _renew(self) -> None:
        source, provider = self._source()
        problem = ""
        try:
            self._credentials = provider.retrieve()
        except (ValueError, KeyError, OSError, ET.ParseError, configparser.Error) as error:
            # An address may hold a web identity's token. Lines after the first are those of a
            # file that could not be read.
            text = re.sub(r"\?\S*", "", str(error).partition("\n")[0]).rstrip(".")
            problem = f"{source}: {text}."
        except urllib3.exceptions.HTTPError as error:
            problem = f"{source} does not answer ({type(error).__name__})."
        pause = _PAUSE_SECONDS
        if self._credentials and not problem:
            pause = max(pause, self._seconds_of_use(self._credentials))
        # The time after the call: those who have waited for it do not repeat it.
        self._problem, self._renewal = problem, self._clock().timestamp() + pause

    def _seconds_of_use(self, credentials: Credentials) -> float:
        """Return the seconds after which new credentials are renewed."""
        if credentials.expiration is None:
            return _READ_AGAIN_SECONDS
        return self.seconds_left(credentials) - _RENEWED_BEFORE_SECONDS

    def _source(self) -> tuple[str, Provider]:
        """Return where credentials come from, with a provider that has read nothing yet."""
        given = self._variables
        if given.get("AWS_ACCESS_KEY_ID"):
            return "AWS_ACCESS_KEY_ID", _VariableCredentials(given)
        if given.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
            address = given.get("AWS_ENDPOINT_URL_STS")
            return "The token service (STS)", self._role(address)
        if given.get("AWS_PROFILE") or _credentials_file(given).is_file():
            file = str(_credentials_file(given))
            return "The credentials file", AWSConfigProvider(file, given.get("AWS_PROFILE"))
        if any(name.startswith("AWS_CONTAINER_CREDENTIALS_") for name in given):
            return "The container's role", self._role(None)
        address = given.get("AWS_EC2_METADATA_SERVICE_ENDPOINT")
        return "The instance's role", self._role(address)

    def _role(self, address: str | None) -> IamAwsProvider:
        return IamAwsProvider(
            custom_endpoint=(address or "").rstrip("/") or None,
            http_client=self._pool,
            region=self._region,
            token_file=self._variables.get("AWS_WEB_IDENTITY_TOKEN_FILE"),
            role_arn=self._variables.get("AWS_ROLE_ARN"),
            relative_uri=self._variables.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
            full_uri=self._variables.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        )


class _VariableCredentials(Provider):
    """Takes credentials from Amazon's variables when they are used; without a secret that fails."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def retrieve(self) -> Credentials:
        return Credentials(
            self._variables["AWS_ACCESS_KEY_ID"],
            self._variables.get("AWS_SECRET_ACCESS_KEY", ""),
            self._variables.get("AWS_SESSION_TOKEN"),
        )


def _credentials_file(variables: Mapping[str, str]) -> Path:
    named = variables.get("AWS_SHARED_CREDENTIALS_FILE")
    # Unlike Path.home, this does not fail for a user without a home folder.
    return Path(named or os.path.expanduser("~/.aws/credentials"))  # noqa: PTH111
