"""deploy/nginx/nginx.conf in front of the API: TLS, limits, failures in the API's shapes."""

import asyncio
import http.client
import json
import re
import shlex
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
import urllib3

from deploy.local.ports import is_free, reserved_ports
from deploy.local.service import NotReadyError, Service
from tasks.uploads.store import PART_BYTES
from tests.support.browser import chromium, visiting
from tests.support.clock import until
from tests.support.paths import ROOT
from tests.support.servers import Servers, running
from tests.support.service import running_api
from tests.support.serving import serving
from tests.support.submissions import PICTURE

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="needs nginx (Debian: nginx-light)")


_CONNECTIONS = 6


@dataclass(frozen=True)
class Front:
    url: str
    tls: urllib3.PoolManager
    tls_url: str
    api: str
    #: An nginx whose API is away, and whose store breaks off; its log, and what the store was sent.
    alone: str
    log_alone: Path
    sent_alone: list[dict[str, str]]

    @property
    def address(self) -> str:
        return self.url.removeprefix("http://")

    def submit(self, base: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - urllib3's
        """Submit a picture, which nothing runs."""
        fields = {"image": ("a.png", PICTURE), "cache": "false"}
        answer = self.tls.request("POST", f"{base}/api/v1/remove-bg", fields=fields, **more)
        assert answer.status == 202, answer.data
        return dict(answer.json()["data"])


@contextmanager
def _running_nginx(folder: Path, address: str, tls: str, api: str, store: str) -> Iterator[None]:
    """nginx as docs/nginx.md starts it, but for the addresses and the folder of its files."""
    commands = re.findall(
        r"test_nginx.py -->\n```sh\n(.*?)```", (ROOT / "docs" / "nginx.md").read_text(), re.DOTALL
    )
    *set_up, start = commands[0].splitlines()
    (folder / "deploy").symlink_to(ROOT / "deploy")
    for command in set_up:
        here = command.replace("127.0.0.1:8000", api).replace("127.0.0.1:9000", store)
        subprocess.run(["sh", "-euc", here], cwd=folder, check=True)
    config, certificate = folder / "nginx/nginx.conf", folder / "nginx/tls/tls.conf"
    text = config.read_text().replace(str(Path("/", "tmp")), str(folder))
    assert f"server {api};" in text
    assert f"server {store};" in text
    # Tests say which address they come from, and need few connections to pass the limit.
    realip = "set_real_ip_from 127.0.0.1; real_ip_header X-Real-IP; limit_conn address"
    text = text.replace("limit_conn address 256", f"{realip} {_CONNECTIONS}")
    config.write_text(text.replace("listen 8080", f"listen {address}"))
    certificate.write_text(certificate.read_text().replace("listen 8443", f"listen {tls}"))
    command = (*shlex.split(start.replace("nginx", str(NGINX), 1)), "-g", "daemon off;")

    def probe(_since: float) -> None:
        if is_free(int(address.rpartition(":")[2])):
            raise NotReadyError("it does not listen yet")

    service = Service("nginx", command, folder=folder, probe=probe)
    with running(service, folder / "nginx.log"):
        yield


@pytest.fixture(scope="module")
def front(
    servers: Servers, service_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("nginx")
    alone = folder / "alone"
    alone.mkdir()
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    for each in (folder, alone):
        certificate.private_key_and_cert_chain_pem.write_to_path(str(each / "fullchain.pem"))
        certificate.private_key_pem.write_to_path(str(each / "privkey.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    env = service_environment | {"RMBG_REDIS_URL": servers.new_database()}
    with reserved_ports() as ports, ExitStack() as stack:
        plain, tls, nobody, plain_too, tls_too = (f"127.0.0.1:{port}" for port in ports[:5])
        env |= {"RMBG_PUBLIC_URL": f"https://{tls}/rmbg", "RMBG_TRUSTED_PROXIES": "1"}
        env |= {"RMBG_S3_PUBLIC_ENDPOINT": f"https://{tls}"}
        store = servers.s3.endpoint.removeprefix("http://").rstrip("/")
        api = stack.enter_context(running_api(env, folder / "api.log")).url
        stack.enter_context(_running_nginx(folder, plain, tls, api.removeprefix("http://"), store))
        sent: list[dict[str, str]] = []
        port = stack.enter_context(serving(lambda request: sent.append(dict(request.headers))))
        broken = f"127.0.0.1:{port}"
        stack.enter_context(_running_nginx(alone, plain_too, tls_too, nobody, broken))
        pool = stack.enter_context(urllib3.PoolManager(ssl_context=context, retries=False))
        away, log = f"http://{plain_too}", alone / "nginx.log"
        yield Front(f"http://{plain}", pool, f"https://{tls}", api, away, log, sent)


def test_every_address_is_the_public_one_with_its_path(front: Front) -> None:
    base = f"{front.tls_url}/rmbg"
    spoofed = {f"X-Forwarded-{name}": "evil.example" for name in ("Host", "Prefix", "Proto")}
    status_url = front.submit(base, headers=spoofed)["status_url"]
    assert status_url.startswith(f"{base}/api/v1/tasks/")
    assert front.tls.request("GET", status_url).status == 200
    # An upload of two parts, which the API takes one by one.
    piece = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
    content = bytes(PART_BYTES + 1)
    length = {"Upload-Length": str(len(content) + 1)}
    begun = front.tls.request(
        "POST", f"{base}/api/v1/uploads", body=content, headers={**piece, **length, **spoofed}
    )
    assert (begun.status, begun.headers["Upload-Offset"]) == (201, str(len(content)))
    upload = begun.headers["Location"]
    assert upload.startswith(f"{base}/api/v1/uploads/")
    rest = {**piece, "Upload-Offset": str(len(content))}
    assert front.tls.request("PATCH", upload, body=b"x", headers=rest).status == 204
    assert front.tls.request("GET", f"{base}/docs/").status == 200
    document = front.tls.request("GET", f"{base}/openapi.json").json()
    assert document["servers"] == [{"url": "/rmbg"}]


def test_the_pages_and_removebgs_api_work_below_the_path(front: Front, coffee: Path) -> None:
    base = f"{front.tls_url}/rmbg"
    for path in ("", "/docs"):
        moved = front.tls.request("GET", f"{base}{path}")
        assert (moved.status, moved.headers["Location"]) == (308, f"{base}{path}/")
    with chromium() as browser, visiting(browser, base, ignore_https_errors=True) as visit:
        visit.open()
        visit.drop(coffee)
        visit.card(coffee.name, "queued")
        # Through a proxy nobody is an operator without a key: the page asks for one.
        visit.open("/ops").locator("dialog[open]").wait_for()
        visit.page.goto(f"{base}/docs/")
        visit.page.locator(".opblock, rapi-doc, redoc, h1").first.wait_for()
        assert [
            each for each in visit.requested if not each.startswith((f"{base}/", "blob:"))
        ] == []
    answer = front.tls.request("GET", f"{base}/v1.0/account")
    assert answer.json()["data"]["attributes"]["api"], answer.data


def test_a_signed_address_is_handed_on_to_the_store_and_nothing_else_is(front: Front) -> None:
    status_url = front.submit(front.tls_url)["status_url"]
    task = front.tls.request("GET", status_url).json()["data"]
    signed = task["original_url"]
    assert signed.startswith(f"{front.tls_url}/")
    got = front.tls.request("GET", signed)
    assert (got.status, got.data) == (200, PICTURE)
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in got.headers["Content-Security-Policy"]
    address, _, _ = signed.partition("?")
    for method, url in [
        ("GET", address),
        ("GET", signed.replace("originals/rm-", "originals/rn-")),
        *((method, signed) for method in ("POST", "PUT", "DELETE")),
    ]:
        assert front.tls.request(method, url).status == 403, (method, url)
    assert front.tls.request("GET", signed).status == 200
    # Anything but a picture is the API's to answer.
    bucket = address.partition("/originals/")[0]
    for path in ("?list-type=2", "uploads/x/whole", "manifests/x", ""):
        answer = front.tls.request("GET", f"{bucket}/{path}", headers={"Authorization": "AWS4"})
        assert answer.json()["error"]["type"] == "not_found", path


def test_the_log_has_no_signed_address_that_fails(front: Front) -> None:
    for path in ("rmbg/results/a/b.png?X-Amz-Signature=5ec2e7", "nowhere"):
        assert urllib3.request("GET", f"{front.alone}/{path}", retries=False).status == 503
    until(lambda: "/nowhere" in front.log_alone.read_text())
    assert "results" not in front.log_alone.read_text()


def test_the_store_gets_what_a_download_needs_and_no_key(front: Front) -> None:
    secret = dict.fromkeys(("X-API-Key", "Authorization", "Cookie", "X-Amz-A"), "secret")
    asked = {"Origin": "https://shop.example", "Range": "bytes=1-2", "If-None-Match": '"a"'}
    front.sent_alone.clear()
    urllib3.request(
        "GET", f"{front.alone}/rmbg/results/a/b.png", headers=secret | asked, retries=False
    )
    address = front.alone.removeprefix("http://")
    assert front.sent_alone == [{"Host": address, **asked}]


def test_the_metrics_are_not_published(front: Front) -> None:
    assert urllib3.request("GET", f"{front.api}/metrics").status == 200
    for path in ("/metrics", "/rmbg/metrics", "//metrics", "/%6detrics", "/metrics/"):
        assert urllib3.request("GET", f"{front.url}{path}").status == 404


def test_events_arrive_as_they_happen(front: Front) -> None:
    url = f"{front.url}/api/v1/tasks/{front.submit(front.url)['task_id']}/events"
    # Nothing runs the task: the stream stays open after its first event.
    stream = urllib3.request("GET", url, preload_content=False, timeout=30)
    seen = b""
    for piece in stream.stream(16):
        seen += piece
        if b'"queued"' in seen:
            break
    stream.close()
    assert seen.startswith(b"retry:")


def test_a_refusal_by_nginx_has_the_shape_of_the_api(front: Front) -> None:
    def refusal(path: str) -> dict[str, Any]:
        with closing(http.client.HTTPConnection(front.address, timeout=30)) as connection:
            connection.putrequest("POST", path)
            connection.putheader("Content-Length", str(2**31))
            connection.endheaders()
            answer = connection.getresponse()
            assert answer.status == 413
            return dict(json.loads(answer.read()))

    assert refusal("/api/v1/remove-bg")["error"]["type"] == "payload_too_large"
    assert refusal("/v1.0/removebg")["errors"][0]["code"] == "file_too_large"


@pytest.mark.parametrize(
    ("crowd", "refused", "other"),
    [
        ("2001:db8:0:1::{}", "2001:db8:0:1:ffff::9", "2001:db8:0:2::1"),
        ("2001:db8:a0a:a0a::{}", "2001:db8:a0a:a0a:a0a::", "2001:db8:a0a:a0b::"),
        ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
        ("::ffff:198.51.100.1", "::ffff:198.51.100.1", "::ffff:198.51.100.2"),
    ],
)
async def test_the_addresses_of_an_ipv6_network_share_connections(
    front: Front, crowd: str, refused: str, other: str
) -> None:
    async def ask(address: str) -> tuple[bytes, asyncio.StreamWriter]:
        host, _, port = front.address.partition(":")
        answer, to = await asyncio.open_connection(host, int(port))
        head = f"POST /api/v1/remove-bg HTTP/1.1\r\nHost: x\r\nX-Real-IP: {address}\r\n"
        # The API lets it pass, and the body does not come.
        to.write(f"{head}Expect: 100-continue\r\nContent-Length: 99999\r\n\r\n".encode())
        return (await answer.readline())[9:12], to

    crowding = [crowd.format(number + 1) for number in range(_CONNECTIONS)]
    answers = [await ask(address) for address in (*crowding, refused, other)]
    for _, to in answers:
        to.close()
    assert [status for status, _ in answers] == [b"100"] * _CONNECTIONS + [b"429", b"100"]


def test_without_the_api_the_answer_is_503_in_its_shape(front: Front) -> None:
    answer = urllib3.request("GET", f"{front.alone}/api/v1/info", retries=False)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    assert answer.json()["error"]["type"] == "not_ready"
