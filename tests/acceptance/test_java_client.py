"""The Java client against the running service, and the shop of docs/java.md that uses it."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from deploy.local import probes, supervisor
from inference.version import __version__
from tests.support.paths import ROOT
from tests.support.programs import run_program
from tests.support.servers import Servers, running
from tests.support.service import RunningService, api_service, eventually, running_api
from tests.support.serving import busy_and_losing_an_answer, serving

#: Small and short-lived: what a server's JVM prepares for would cost more than it does.
JVM = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
CLIENT = ROOT / "clients" / "java"
PROGRAM = ROOT / "tests" / "clients" / "java" / "ClientTest.java"

pytestmark = pytest.mark.skipif(shutil.which("javac") is None, reason="no JDK here")


def _documented(program: str) -> str:
    (line,) = re.findall(rf"^{program} .*$", (ROOT / "docs" / "java.md").read_text(), re.MULTILINE)
    return str(line)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    jvm = " ".join(f"-J{option}" for option in JVM)
    strict = f"javac {jvm} -Xlint:all -Werror --release 17 -d {folder}"
    call = _documented("javac").replace("javac -d build", strict)
    program = shlex.quote(str(PROGRAM))
    subprocess.run(f"{call} {program}", shell=True, cwd=ROOT, check=True, timeout=120)  # noqa: S602 - our own page
    return folder


def _command(classes: Path, name: str, *arguments: object) -> list[str]:
    return ["java", *JVM, "-cp", str(classes), name, *map(str, arguments)]


def _run(classes: Path, *arguments: object) -> str:
    done = run_program(*_command(classes, "ClientTest", *arguments))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_tasks_batches_and_errors(
    service: RunningService, classes: Path, photos: list[Path], garbled: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    _run(classes, "all", service.url, photos[0], garbled, folder)


def test_a_lost_answer_and_a_busy_service_are_tried_again(
    service: RunningService, classes: Path, photos: list[Path]
) -> None:
    seen: list[str] = []
    with serving(busy_and_losing_an_answer(service.url, seen)) as port:
        shown = _run(classes, "submit", f"http://127.0.0.1:{port}", photos[0])
    assert len(seen) == 3
    assert len(set(seen)) == 1
    assert "replayed=true" in shown


def test_a_wait_survives_the_death_of_the_api(
    servers: Servers,
    service_environment: dict[str, str],
    classes: Path,
    photos: list[Path],
    tmp_path: Path,
) -> None:
    # Without workers the task waits until it is canceled.
    env = {**service_environment, "RMBG_REDIS_URL": servers.new_database()}
    with running_api(env, tmp_path / "first.log") as api, ExitStack() as stack:
        call = _command(classes, "ClientTest", "wait", api.url, photos[0])
        client = stack.enter_context(
            subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        stack.callback(client.kill)
        assert client.stdout is not None
        task = client.stdout.readline().strip()
        supervisor.kill_group(api.pid)
        # While the first one's port is still reserved.
        again = api_service(api.port, env, probes.http_ok(f"{api.url}/healthz/live"))
        stack.enter_context(running(again, tmp_path / "second.log"))
        canceled = requests.post(f"{api.url}/api/v1/tasks/{task}/cancel", timeout=30)
        assert canceled.ok, canceled.text
        _, errors = client.communicate(timeout=60)
        assert client.returncode == 0, errors


@pytest.fixture
def shop(service: RunningService, classes: Path, tmp_path: Path) -> Iterator[str]:
    given = {
        " build ": f" {classes} ",
        "8080": "0",
        "http://127.0.0.1:8000": service.url,
        '"$RMBG_WEBHOOK_SECRET"': service.env["RMBG_WEBHOOK_SECRET"],
        "cutouts": str(tmp_path),
    }
    command = _documented("java")
    for shown, here in given.items():
        command = command.replace(shown, here)
    with subprocess.Popen(shlex.split(command), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline().split()[-1]
        yield f"http://127.0.0.1:{port}"
        process.kill()


def test_the_shop_gets_its_cutout_by_webhook(shop: str, photos: list[Path], tmp_path: Path) -> None:
    def post(path: str, body: bytes, **headers: str) -> int:
        return requests.post(shop + path, body, headers=headers, timeout=30).status_code

    assert post("/photos/a17", photos[0].read_bytes()) == 202
    eventually("the cutout", (tmp_path / "a17.png").exists)
    got = requests.get(f"{shop}/photos/a17", timeout=30)
    assert got.content.startswith(b"\x89PNG")
    assert post("/photos/b", b"no picture") == 422
    assert post("/hooks/rmbg", b"{}") == 400
    forged = {"webhook-id": "x", "webhook-timestamp": "1", "webhook-signature": "v1,x"}
    assert post("/hooks/rmbg", b"{}", **forged) == 400


def test_the_client_has_every_parameter_of_the_api() -> None:
    text = (CLIENT / "src/main/java/io/github/rmbgqueue/client/RemovalOptions.java").read_text()
    named = set(re.findall(r'with\("([a-z_]+)"', text))
    document = json.loads((ROOT / "docs" / "openapi.json").read_text())
    known = document["components"]["schemas"]["RemovalJson"]["properties"].keys()
    assert known - {"image_url", "image_b64", "upload_id"} == named


def test_the_coordinates_have_the_services_version() -> None:
    for page in (CLIENT / "pom.xml", ROOT / "docs" / "java.md"):
        assert f"<version>{__version__}</version>" in page.read_text(), page


@pytest.mark.slow
def test_every_public_name_has_a_comment(tmp_path: Path) -> None:
    sources = list((CLIENT / "src").rglob("*.java"))
    call = ["javadoc", "-quiet", "-Xdoclint:all,-missing", "-Werror", "-d", tmp_path, *sources]
    subprocess.run(call, check=True, timeout=120)
