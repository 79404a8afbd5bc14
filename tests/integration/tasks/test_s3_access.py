"""Object stores of other regions, styles and authorities, and credentials of a role."""

import io
import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import urllib3

from api.services import Services
from api.settings import ApiSettings
from deploy.doctor import Level, check_object_store
from deploy.local import probes
from deploy.local.service import NotReadyError
from tasks.errors import ObjectStoreUnavailableError
from tasks.object_store import ObjectStore, probe_object_store
from tasks.s3_access import RoleCredentials
from tasks.settings import Settings
from tasks.worker.celery_tasks import _object_store_pool
from tests.support.servers import STORE_DOMAIN
from tests.support.serving import Request, answer, serving
from tests.support.tls import tls_store

AWAY = (ObjectStoreUnavailableError, NotReadyError)
REGION = "eu-central-1"
KEYS: dict[str, object] = {"s3_access_key": "a", "s3_secret_key": "b"}


def _store(settings: dict[str, object], **changes: object) -> ObjectStore:
    return ObjectStore.from_settings(Settings.load(**{**settings, **changes}))


def _of_the_worker(settings: ApiSettings) -> None:
    ObjectStore.from_settings(settings, _object_store_pool(settings)).ping()


def _of_the_doctor(settings: ApiSettings) -> None:
    results = list(check_object_store(ObjectStore.from_settings(settings), settings))
    if failed := [each.text for each in results if each.level is not Level.OK]:
        raise ObjectStoreUnavailableError(" ".join(failed))


CLIENTS: dict[str, Callable[[ApiSettings], object]] = {
    "service": lambda settings: ObjectStore.from_settings(settings).ping(),
    "api": lambda settings: Services.from_settings(settings).runtime.object_store.ping(),
    "worker": _of_the_worker,
    "probe": lambda settings: probe_object_store(settings, None),
    "rmbg up": lambda settings: probes.object_store_answers(settings)(0),
}


@pytest.mark.usefixtures("objects")
@pytest.mark.parametrize("client", [*CLIENTS.values(), _of_the_doctor], ids=[*CLIENTS, "doctor"])
def test_a_store_is_trusted_by_its_authority_alone(
    client: Callable[[ApiSettings], object], server_settings: dict[str, object], tmp_path: Path
) -> None:
    with tls_store(server_settings["s3_endpoint"], tmp_path) as server:
        given = {**server_settings, "s3_endpoint": server.url}
        with pytest.raises(AWAY, match=r"certificate is not trusted.*RMBG_S3_CA_FILE"):
            client(ApiSettings.load(**given))
        assert not server.heard
        assert len(server.connections) == 1, "it is not tried again"
        client(ApiSettings.load(**given, s3_ca_file=server.authority))
        assert server.heard


def test_a_certificate_of_another_host_is_not_trusted(
    server_settings: dict[str, object], tmp_path: Path
) -> None:
    with tls_store(server_settings["s3_endpoint"], tmp_path, "s3.example") as server:
        store = _store(server_settings, s3_endpoint=server.url, s3_ca_file=server.authority)
        with pytest.raises(ObjectStoreUnavailableError, match=r"not valid for '127\.0\.0\.1'"):
            store.ping()
        assert not server.heard


def test_a_server_that_is_no_store_or_speaks_no_tls_is_said_as_such(
    server_settings: dict[str, object],
) -> None:
    plain = server_settings["s3_endpoint"].replace("http:", "https:")
    page = {"body": b"<html>", "Content_Type": "text/html"}
    with serving(answer(404, **page)) as port, serving(answer(502, **page)) as gateway:
        for endpoint, said in (
            (plain, r"begins with http://"),
            (f"http://127.0.0.1:{port}", "no object store"),
            (f"http://127.0.0.1:{gateway}", "does not answer"),
            ("http://127.0.0.1:1", r"does not answer: Connection refused\."),
            ("http://store.invalid", r"does not answer: .*(not known|resolution)"),
        ):
            with pytest.raises(ObjectStoreUnavailableError, match=said):
                _store(server_settings, s3_endpoint=endpoint).get("a")


def _of_one_region(request: Request) -> None:
    """Answer like a store of one region, which tells it to who signs for another."""
    if f"/{REGION}/s3/" in request.headers["Authorization"]:
        absent = b"<Error><Code>NoSuchKey</Code></Error>"
        here = request.command == "HEAD"
        answer(*((200, b"") if here else (404, absent)), Content_Type="application/xml")(request)
    else:
        answer(400, x_amz_bucket_region=REGION)(request)


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_each_client_signs_for_the_region(client: Callable[[ApiSettings], object]) -> None:
    with serving(_of_one_region) as port:
        settings = ApiSettings.load(s3_endpoint=f"http://127.0.0.1:{port}", **KEYS)
        client(settings.model_copy(update={"s3_region": REGION}))
        with pytest.raises(AWAY, match=f"use region {REGION}.*RMBG_S3_REGION"):
            client(settings)


@pytest.mark.usefixtures("objects")
@pytest.mark.parametrize("region", [None, REGION])
def test_a_bucket_may_be_named_by_the_host(
    server_settings: dict[str, object], region: str | None
) -> None:
    at_store = urllib3.ProxyManager(server_settings["s3_endpoint"])
    virtual = {"s3_addressing_style": "virtual", "s3_region": region}
    given = {**server_settings, "s3_endpoint": f"http://{STORE_DOMAIN}", **virtual}
    store = ObjectStore.from_settings(Settings.load(**given), at_store)
    key = f"tests/{secrets.token_hex(8)}"
    store.put(key, io.BytesIO(b"x"), 1, "image/png")
    store.copy(key, f"{key}-copy")
    assert set(store.list(key)) == {key, f"{key}-copy"}
    url = store.url(key, seconds=60)
    assert url.startswith(f"http://{store.bucket}.{STORE_DOMAIN}/{key}?")
    assert at_store.request("GET", url).data == b"x"


@pytest.mark.parametrize(
    ("address", "region", "host"),
    [
        ("https://s3.eu-west-1.amazonaws.com", None, "rmbg.s3.eu-west-1.amazonaws.com"),
        ("https://s3.amazonaws.com", REGION, f"rmbg.s3.{REGION}.amazonaws.com"),
        ("https://s3.example:9000", REGION, "s3.example:9000"),
    ],
)
def test_an_address_of_amazon_names_the_region(address: str, region: str | None, host: str) -> None:
    store = _store(KEYS, s3_endpoint=address, s3_region=region)
    url = store.url("key", seconds=60)
    assert url.split("/")[2].replace(".dualstack", "") == host
    assert f"%2F{region or 'eu-west-1'}%2Fs3%2F" in url


@dataclass
class Cloud:
    """A token service, the services for instances and containers, and a store, all of loopback.

    Attributes:
        end: when the credentials end that it gives.
        asked: the addresses that were asked for credentials.
        signed: the access key and the session token of each request to the store.
        is_broken: whether it refuses to give credentials.
    """

    end: datetime = field(default_factory=lambda: datetime.now(UTC) + timedelta(hours=1))
    asked: list[str] = field(default_factory=list)
    signed: list[tuple[str, str]] = field(default_factory=list)
    is_broken: bool = False
    url: str = ""

    def __call__(self, request: Request) -> None:
        path = request.path.split("?")[0]
        if path.startswith("/rmbg"):
            key = request.headers["Authorization"].partition("Credential=")[2].split("/")[0]
            self.signed.append((key, request.headers["X-Amz-Security-Token"]))
            return answer(200)(request)
        self.asked.append(request.path)
        if self.is_broken:
            return answer(500)(request)
        return answer(200, self._body(request, path))(request)

    def _body(self, request: Request, path: str) -> bytes:
        end = self.end.strftime("%Y-%m-%dT%H:%M:%SZ")
        if "Action=AssumeRoleWithWebIdentity" in request.path:
            assert "WebIdentityToken=jwt" in request.path
            names = {"AccessKeyId": "key", "SecretAccessKey": "s", "SessionToken": "token"}
            inner = "".join(f"<{n}>{v}</{n}>" for n, v in {**names, "Expiration": end}.items())
            result = f"<A><AssumeRoleWithWebIdentityResult><Credentials>{inner}</Credentials>"
            return f"{result}</AssumeRoleWithWebIdentityResult></A>".encode()
        if path == "/latest/api/token":
            return b"imds"
        if path.endswith("/security-credentials/"):
            return b"role"
        names = {"AccessKeyId": "key", "SecretAccessKey": "s", "Token": "token"}
        return json.dumps({**names, "Expiration": end}).encode()


@contextmanager
def _cloud() -> Iterator[Cloud]:
    cloud = Cloud()
    with serving(cloud) as port:
        cloud.url = f"http://127.0.0.1:{port}"
        yield cloud


def _variables(source: str, url: str, folder: Path) -> dict[str, str]:
    (folder / "jwt").write_text("jwt")
    (folder / "credentials").write_text(
        "[shop]\naws_access_key_id=key\naws_secret_access_key=s\naws_session_token=token\n"
    )
    none = {"AWS_SHARED_CREDENTIALS_FILE": str(folder / "none")}
    return {
        "environment": {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "s",
            "AWS_SESSION_TOKEN": "token",
        },
        "web identity": {
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(folder / "jwt"),
            "AWS_ROLE_ARN": "arn:aws:iam::1:role/rmbg",
            "AWS_ENDPOINT_URL_STS": url,
        },
        "file": {
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
            "AWS_PROFILE": "shop",
        },
        "container": {**none, "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{url}/container"},
        "instance": {**none, "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"{url}/"},
    }[source]


@pytest.mark.parametrize("source", ["environment", "web identity", "file", "container", "instance"])
def test_a_session_token_or_a_role_signs(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _cloud() as cloud:
        for name, value in _variables(source, cloud.url, tmp_path).items():
            monkeypatch.setenv(name, value)
        settings = Settings.load(s3_endpoint=cloud.url, s3_credentials="aws", url_seconds=86400)
        store = ObjectStore.from_settings(settings)
        store.ping()
        times = len(cloud.asked)
        probe_object_store(settings, store.role)
        assert cloud.signed == [("key", "token")] * 2
        assert len(cloud.asked) == times, "it is asked once"
        assert "X-Amz-Security-Token=token" in store.url("a", seconds=60)
        ends = source in {"environment", "file"}
        assert store.url_lifetime() == (86400 if ends else pytest.approx(3600, abs=60))


def test_a_credentials_file_without_its_section_is_told_without_its_content(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("aws_secret_access_key=hunter2\n")
    role = RoleCredentials({"AWS_SHARED_CREDENTIALS_FILE": str(file)}, region=REGION)
    with pytest.raises(ObjectStoreUnavailableError, match="no section headers") as refused:
        role.retrieve()
    assert "hunter2" not in str(refused.value)


def test_credentials_are_renewed_before_their_end_and_used_to_it(tmp_path: Path) -> None:
    begun = datetime.now(UTC)
    passed = timedelta()
    with _cloud() as cloud:
        role = RoleCredentials(
            _variables("web identity", cloud.url, tmp_path),
            region=REGION,
            clock=lambda: begun + passed,
        )

        def asks(hours: float, end: float) -> int:
            """Return how often the token service is asked for the use of credentials."""
            nonlocal passed
            before = len(cloud.asked)
            passed, cloud.end = timedelta(hours=hours), begun + timedelta(hours=end)
            assert role.retrieve().access_key == "key"
            return len(cloud.asked) - before

        assert [asks(0, 1), asks(0.9, 2), asks(0.95, 2), asks(1.9, 2)] == [1, 0, 1, 0]
        cloud.is_broken = True
        assert [asks(1.95, 3), asks(1.95, 3)] == [1, 0], "those that there are still work"
        for seconds, asked in ((0, 1), (1, 0), (6, 1)):
            before, passed = len(cloud.asked), timedelta(hours=2, seconds=seconds)
            with pytest.raises(ObjectStoreUnavailableError, match="token service") as raised:
                role.retrieve()
            assert len(cloud.asked) - before == asked
            assert "jwt" not in str(raised.value), "a token is not repeated"
