"""What can prevent the start of `rmbg up`: one clear line and exit status 2 for each."""

import errno
import io
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from api.settings import ApiSettings
from deploy.local.ports import LOOPBACK, reserved_ports
from deploy.local.screen import Screen
from deploy.local.stack import Ports, UpOptions, child_environment, choose_workers
from deploy.local.up import run_up
from tests.support.stacks import planned

#: Starts with options, which fails, and returns what is printed.
Refusal = Callable[..., str]


@pytest.fixture
def unchecked_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refusal:
    monkeypatch.setenv("RMBG_MODEL_DIR", str(tmp_path))

    def refusal(*, port: int = 0, data: Path = tmp_path / "data", **options: str) -> str:
        text = io.StringIO()
        made = UpOptions(port=port, data=data, flower_port=None, **options)  # type: ignore[arg-type]
        status = run_up(made, Screen(Console(file=text, width=300)))
        assert status == 2, text.getvalue()
        assert "Traceback" not in text.getvalue()
        return text.getvalue()

    return refusal


@pytest.fixture
def refusal(unchecked_refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> Refusal:
    """Skip the check of the model's file."""
    monkeypatch.setattr("deploy.local.up.check_weights", lambda *_: None)
    return unchecked_refusal


def test_a_taken_port_is_named_with_its_option(refusal: Refusal) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
        output = refusal(port=port)
    assert f"Port {port} of 127.0.0.1 is taken" in output
    assert "with make: ARGS='--port 0'" in output


def _no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("deploy.local.data_folder._lock", lambda *_: False, "is in use by another `rmbg up`"),
        ("deploy.local.stack.SOCKET_FOLDER", Path("/none"), "where SeaweedFS keeps its sockets"),
        ("deploy.local.stack._SEMAPHORES", Path("/none"), "workers keep their semaphores"),
        ("deploy.local.stack.free_bytes", lambda _: 2**20, "has 1 MiB left, and SeaweedFS writes"),
        ("deploy.local.up.write_targets", _no_room, "cannot be written: No space left on device"),
        ("resource.getrlimit", lambda _: (256, 512), "may open 512 files here, and 1,024 are"),
    ],
    ids=["folder in use", "folder of sockets", "semaphores", "full disk", "no room", "open files"],
)
def test_what_a_server_would_fail_by_is_told_before(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch, name: str, value: object, words: str
) -> None:
    monkeypatch.setattr(name, value)
    assert words in refusal()


def test_a_missing_or_unknown_model_and_a_wrong_setting_are_named(
    unchecked_refusal: Refusal, tmp_path: Path
) -> None:
    assert re.search("is missing.*rmbg models fetch u2netp", unchecked_refusal())
    assert not (tmp_path / "data").exists()
    assert "u2netp" in unchecked_refusal(model="no-such-model")
    assert "RMBG_REDIS_URL" in unchecked_refusal(redis_url="http://example.org")


def test_a_folder_and_servers_that_cannot_be_used_are_named(
    refusal: Refusal, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    data = tmp_path / "file" / "data"
    assert f"The data folder {data} cannot be written (Not a directory)." in refusal(data=data)
    with reserved_ports() as ports:
        address = f"{LOOPBACK}:{ports[0]}"
        redis = refusal(redis_url=f"redis://:secret@{address}/0")
        store = refusal(s3_endpoint=f"http://{address}")
    assert f"Redis at {address} does not answer" in redis
    assert "secret" not in redis
    assert f"http://{address}/: The object store does not answer" in store
    assert "RMBG_S3_ENDPOINT" in store


def test_chosen_ports_are_used_and_the_others_are_free() -> None:
    with reserved_ports() as free:
        wanted = free[-1]
        ports = Ports.choose(UpOptions(port=wanted, flower_port=0), free[:-1])
        assert ports.api == wanted
        assert ports.flower in free
        assert Ports.choose(UpOptions(port=0, flower_port=None), free).flower is None


def test_how_a_users_store_is_reached_does_not_matter_to_the_embedded_one(tmp_path: Path) -> None:
    given = ApiSettings.load(s3_credentials="aws", s3_addressing_style="virtual")
    made = planned(given, tmp_path).settings
    assert (made.s3_credentials, made.s3_addressing_style) == ("keys", "path")
    assert made.s3_access_key


@pytest.mark.parametrize(
    ("gpus", "device", "expected"),
    [
        ((0, ""), "auto", [None, None, None]),
        ((1, ""), "auto", [None, None, None]),
        ((2, ""), "cuda", ["0", "1", "0"]),
        ((8, "5,GPU-1f"), "auto", ["5", "GPU-1f", "5"]),
        ((8, ""), "cuda:3", [None, None, None]),
        ((8, ""), "cpu", [None, None, None]),
    ],
)
def test_workers_take_turns_on_several_gpus(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpus: tuple[int, str],
    device: str,
    expected: list[str | None],
) -> None:
    found, visible = gpus
    for number in range(found):
        (tmp_path / "gpus" / f"0000:{number}0:00.0").mkdir(parents=True)
    monkeypatch.setattr("deploy.local.stack._GPUS", tmp_path / "gpus")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    given = ApiSettings.load(model="birefnet", device=device)
    stack = planned(given, tmp_path, workers=3)
    given_out = [each.env.get("CUDA_VISIBLE_DEVICES") for each in stack.services[:3]]
    assert given_out == expected
    # A first start compiles the network for its GPU.
    assert stack.start_seconds == (900 if found and device != "cpu" else 120)


@pytest.mark.parametrize(
    ("model", "device", "cores", "gigabytes", "workers", "threads"),
    [
        ("u2netp", "auto", 2, 8, 2, 1),
        ("u2netp", "cpu", 8, 16, 4, 2),
        ("u2netp", "auto", 32, 64, 4, 8),
        ("u2netp", "auto", 2, 2, 1, 2),
        ("u2netp", "cuda:0", 8, 64, 1, 8),
        ("birefnet-tiny", "cpu", 8, 64, 1, 8),
    ],
)
def test_workers_and_their_threads_suit_one_person_and_many(  # noqa: PLR0917 - a table
    model: str,
    device: str,
    cores: int,
    gigabytes: int,
    workers: int,
    threads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deploy.local.service.core_count", lambda: cores)
    monkeypatch.setattr("deploy.local.service.memory_bytes", lambda: gigabytes * 2**30)
    settings = ApiSettings.load(model=model, device=device)
    assert choose_workers(settings) == workers
    settings = settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:1"})
    assert child_environment(settings, workers)["RMBG_THREADS"] == str(threads)


def test_processes_find_files_that_are_named_from_the_callers_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").mkdir()
    settings = ApiSettings.load(
        redis_url="rediss://:a%2Fb@h:1/0?ssl_certfile=c%26d.pem&ssl_ca_certs=a.pem&ssl_keyfile=/k",
        s3_endpoint="http://127.0.0.1:1",
        s3_sync_dir="store",
        model_path="m.onnx",
    )
    env = child_environment(settings, 1)
    assert env["RMBG_REDIS_URL"] == (
        f"rediss://:a%2Fb@h:1/0?ssl_certfile={tmp_path}/c%26d.pem"
        f"&ssl_ca_certs={tmp_path}/a.pem&ssl_keyfile=/k"
    )
    assert env["RMBG_S3_SYNC_DIR"] == f"{tmp_path}/store"
    assert env["RMBG_MODEL_PATH"] == f"{tmp_path}/m.onnx"
