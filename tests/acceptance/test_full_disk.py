"""The disk of the data fills up while the service runs, and has room again."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

import pytest

from deploy.client import ClientError, ServiceClient
from tasks.capacity import FREE_BYTES, free_bytes
from tests.support.programs import run_program
from tests.support.servers import embedded_store
from tests.support.service import api_here, eventually, running_api


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk."""
    place = tmp_path / "disk"
    place.mkdir()
    size = FREE_BYTES // 2**20 + 128
    command = ("mount", "-t", "tmpfs", "-o", f"size={size}m", "none", str(place))
    if run_program(*command).returncode:
        pytest.skip("needs the right to mount a disk")
    yield place
    subprocess.run(("umount", "-l", str(place)), check=True)


@contextmanager
def _filled(disk: Path, *, leaving: int) -> Iterator[None]:
    """So many bytes are left of the disk."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free_bytes(disk) - leaving)
    yield
    filler.unlink()


@pytest.mark.slow
@pytest.mark.hostile
def test_a_full_disk_is_told_and_pictures_are_taken_once_it_has_room(
    service_environment: dict[str, str], disk: Path, tmp_path: Path, coffee: Path
) -> None:
    with embedded_store(disk / "store") as s3:
        env = {**service_environment, **s3.environment, "RMBG_S3_BUCKET": "rmbg"}
        own = {**env, "RMBG_DATA_DIR": str(disk)}
        with running_api(own, tmp_path / "log") as api, ServiceClient(api.url) as client:

            def accepted() -> str:
                try:
                    return client.submit(coffee, {"cache": "false"})
                except ClientError:
                    return ""

            assert accepted()
            with _filled(disk, leaving=FREE_BYTES - 2**20):
                eventually("a refusal", lambda: not accepted())
                with pytest.raises(ClientError, match="no room"):
                    client.submit(coffee, {})
            eventually("room", accepted)
        # An API that does not know the disk has the store's word alone.
        elsewhere = api_here(env)
        with _filled(disk, leaving=0):
            refused = elsewhere.send(image=coffee.read_bytes())
            assert refused.status_code == HTTPStatus.SERVICE_UNAVAILABLE
        answer = elsewhere.send(image=coffee.read_bytes())
        assert answer.status_code == HTTPStatus.ACCEPTED
