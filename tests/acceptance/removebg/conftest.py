from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

from tests.support.pictures import subject_picture
from tests.support.removebg import RemoveBg, removebg_service
from tests.support.servers import Servers


@pytest.fixture(scope="module")
def removebg(
    service_environment: dict[str, str],
    servers: Servers,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RemoveBg]:
    own = {"RMBG_REDIS_URL": servers.new_database(), "RMBG_S3_BUCKET": f"{servers.bucket}-removebg"}
    with removebg_service(
        service_environment | own, tmp_path_factory.mktemp("removebg")
    ) as service:
        yield service


class _Site(BaseHTTPRequestHandler):
    """Serves one folder's files, to anybody who names one."""

    folder: ClassVar[Path]

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write((self.folder / Path(self.path).name).read_bytes())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def subject_url(subject_file: Path) -> Iterator[str]:
    """The subject's picture, on a web server."""
    _Site.folder = subject_file.parent
    with ThreadingHTTPServer(("127.0.0.1", 0), _Site) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/{subject_file.name}"
        server.shutdown()
        thread.join()


@pytest.fixture
def subject_file(tmp_path: Path) -> Path:
    subject_picture().save(tmp_path / "subject.png")
    return tmp_path / "subject.png"
