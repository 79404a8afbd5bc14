from collections.abc import Iterator
from pathlib import Path

import pytest
from removebg_stage import RemoveBg, removebg_service, subject_picture


@pytest.fixture(scope="session")
def removebg(
    service_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RemoveBg]:
    with removebg_service(service_environment, tmp_path_factory.mktemp("removebg")) as service:
        yield service


@pytest.fixture
def subject_file(tmp_path: Path) -> Path:
    subject_picture().save(tmp_path / "subject.png")
    return tmp_path / "subject.png"
