"""Settings of the object store: what works, and what the doctor says of wrong ones."""

import json
from pathlib import Path

import pytest
import urllib3
from typer.testing import CliRunner

from deploy.cli.main import app
from deploy.client import ServiceClient
from tests.support.service import RunningApi
from tests.support.tls import tls_store


def test_pictures_are_signed_for_the_region_of_the_store(
    lone_api: RunningApi, coffee: Path
) -> None:
    with ServiceClient(lone_api.url) as client:
        task_id = client.submit(coffee, {})
        url = client.request("GET", f"/api/v1/tasks/{task_id}")["original_url"]
    assert "%2Feu-central-1%2Fs3%2F" in url
    assert urllib3.request("GET", url).data == coffee.read_bytes()


@pytest.mark.parametrize(
    ("name", "value", "level", "words"),
    [
        ("RMBG_S3_ENDPOINT", "{tls}/rmbg", "fail", "should end behind the host and port"),
        ("RMBG_S3_ENDPOINT", "{tls}", "fail", "certificate is not trusted"),
        ("RMBG_S3_REGIN", "eu-central-1", "warn", "RMBG_S3_REGIN is no setting"),
        ("RMBG_S3_ADDRESSING_STYLE", "host", "fail", "'auto', 'path' or 'virtual'"),
    ],
)
def test_the_doctor_says_what_is_wrong(  # noqa: PLR0917 - one case
    lone_api: RunningApi, tmp_path: Path, name: str, value: str, level: str, words: str
) -> None:
    with tls_store(lone_api.env["RMBG_S3_ENDPOINT"], tmp_path) as store:
        env = {**lone_api.env, name: value.replace("{tls}", store.url)}
        told = CliRunner().invoke(app, ["doctor", "--json"], env=env).stdout
    found = [each for each in json.loads(told)["findings"] if words in each["text"]]
    assert [each["level"] for each in found][:1] == [level], told
