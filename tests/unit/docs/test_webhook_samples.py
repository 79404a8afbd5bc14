"""The samples of docs/webhooks.md take what this service signs, and nothing else."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.api_keys import new_webhook_secret
from tasks.webhooks.sending import signed_headers
from tests.support.paths import ROOT

SAMPLES = ROOT / "docs" / "examples" / "webhooks"
SECRET, OTHER = new_webhook_secret(), new_webhook_secret()
BODY = '{"type":"removal.succeeded","data":{"metadata":{"name":"Käse"}}}'.encode()
ID = "msg_rm-20260101-x_1"

#: Verifies a body with a secret and the three headers.
Verify = Callable[[str, dict[str, str], bytes], bool]


def _python(_: Path) -> list[str]:
    return [sys.executable, str(SAMPLES / "verify_webhook.py")]


def _java(folder: Path) -> list[str]:
    if shutil.which("javac") is None:
        pytest.skip("there is no JDK here")
    source = str(SAMPLES / "VerifyWebhook.java")
    subprocess.run(["javac", "-Xlint:all", "-Werror", "-d", str(folder), source], check=True)
    return ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", str(folder), "VerifyWebhook"]


def _node(_: Path) -> list[str]:
    if shutil.which("node") is None:
        pytest.skip("there is no Node here")
    return ["node", str(SAMPLES / "verify-webhook.js")]


@pytest.fixture(scope="module", params=[_python, _java, _node], ids=["python", "java", "node"])
def verify(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Verify:
    command = request.param(tmp_path_factory.mktemp("sample"))

    def verify(secret: str, sent: dict[str, str], body: bytes) -> bool:
        names = ("webhook-id", "webhook-timestamp", "webhook-signature")
        given = [secret, *(sent[name] for name in names)]
        done = subprocess.run([*command, *given], input=body, capture_output=True, check=False)
        assert done.returncode in (0, 1), done.stderr
        assert done.stderr == b"", "a refusal is no crash"
        return done.returncode == 0

    return verify


def sent(*secrets: str, age: int = 0) -> dict[str, str]:
    now = int(time.time())
    return dict(signed_headers(secrets, webhook_id=ID, timestamp=now - age, body=BODY))


def test_what_this_service_signs_is_taken(verify: Verify) -> None:
    assert verify(SECRET, sent(SECRET), BODY)


def test_either_secret_is_taken_while_one_replaces_the_other(verify: Verify) -> None:
    both = sent(OTHER, SECRET)
    assert verify(SECRET, both, BODY)
    assert verify(OTHER, both, BODY)


def test_a_changed_byte_is_refused(verify: Verify) -> None:
    assert not verify(SECRET, sent(SECRET), BODY.replace(b"removal", b"Removal"))


@pytest.mark.parametrize("age", [600, -600])
def test_a_timestamp_of_another_time_is_refused(verify: Verify, age: int) -> None:
    assert not verify(SECRET, sent(SECRET, age=age), BODY)


def test_another_secret_is_refused(verify: Verify) -> None:
    assert not verify(OTHER, sent(SECRET), BODY)


def test_another_id_or_no_signature_is_refused(verify: Verify) -> None:
    assert not verify(SECRET, {**sent(SECRET), "webhook-id": "msg_other"}, BODY)
    assert not verify(SECRET, {**sent(SECRET), "webhook-signature": "v1,"}, BODY)
    assert not verify(SECRET, {**sent(SECRET), "webhook-timestamp": "now"}, BODY)
