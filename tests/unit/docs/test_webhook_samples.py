"""The samples of docs/webhooks.md take what this service signs, and nothing else."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tasks.api_keys import new_webhook_secret
from tasks.webhooks.sending import signed_headers
from tests.support.paths import ROOT

SAMPLES = ROOT / "docs" / "examples" / "webhooks"
SECRET, OTHER = new_webhook_secret(), new_webhook_secret()
BODY = '{"type":"removal.succeeded","data":{"metadata":{"name":"Käse"}}}'


class Sent(NamedTuple):
    """What a receiver knows of a delivery."""

    secret: str
    id: str
    timestamp: str
    signature: str
    body: str = BODY


def _sent(*secrets: str, age: int = 0) -> Sent:
    timestamp = int(time.time()) - age
    headers = signed_headers(
        secrets, webhook_id="msg_rm-20260101-x_1", timestamp=timestamp, body=BODY.encode()
    )
    return Sent(SECRET, *(headers[f"webhook-{each}"] for each in ("id", "timestamp", "signature")))


def _cases() -> dict[str, tuple[Sent, bool]]:
    """What is sent, and whether it is taken; made when a test runs, since it grows too old."""
    good, both = _sent(SECRET), _sent(OTHER, SECRET)
    return {
        "what this service signs": (good, True),
        "the new secret of two": (both, True),
        "the old secret of two": (both._replace(secret=OTHER), True),
        "a changed byte": (good._replace(body=BODY.replace("removal", "Removal")), False),
        "too old": (_sent(SECRET, age=600), False),
        "of the future": (_sent(SECRET, age=-600), False),
        "another secret": (good._replace(secret=OTHER), False),
        "another id": (good._replace(id="msg_other"), False),
        "no signature": (good._replace(signature="v1,"), False),
        "a timestamp in words": (good._replace(timestamp="now"), False),
    }


def _python(_: Path) -> list[str]:
    return [sys.executable, str(SAMPLES / "verify_webhook.py")]


def _java(folder: Path) -> list[str]:
    source = str(SAMPLES / "VerifyWebhook.java")
    subprocess.run(["javac", "-Xlint:all", "-Werror", "-d", str(folder), source], check=True)
    return ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", str(folder), "VerifyWebhook"]


def _node(_: Path) -> list[str]:
    return ["node", str(SAMPLES / "verify-webhook.js")]


@pytest.mark.parametrize(
    ("compiler", "command_of"),
    [("python3", _python), ("javac", _java), ("node", _node)],
    ids=["python", "java", "node"],
)
def test_a_sample_takes_what_this_service_signs_and_nothing_else(
    compiler: str, command_of: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler} here")
    command = command_of(tmp_path)
    for name, (sent, good) in _cases().items():
        done = subprocess.run(
            [*command, *sent[:4]], input=sent.body.encode(), capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0 if good else 1, b""), name
