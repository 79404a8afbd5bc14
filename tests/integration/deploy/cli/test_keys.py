"""`rmbg keys`, on a real Redis."""

import json

import pytest
from click.testing import Result
from typer.testing import CliRunner

from deploy.cli.main import app
from tasks.api_keys import ApiKeys
from tasks.redis_client import connect


@pytest.fixture
def url(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    own = redis_url
    connect(own).flushdb()
    monkeypatch.setenv("RMBG_REDIS_URL", own)
    return own


def _rmbg(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["keys", *arguments])


def test_a_key_is_added_listed_rotated_and_revoked(url: str) -> None:
    made = json.loads(_rmbg("add", "shop", "--rate", "2/s", "--models", "u2netp", "--json").stdout)
    assert made["rate_per_minute"] == 120
    assert made["models"] == ["u2netp"]
    owner = ApiKeys(connect(url)).find(made["key"])
    assert owner is not None
    assert owner.name == "shop"

    listed = _rmbg("list", "--json")
    assert [each["name"] for each in json.loads(listed.stdout)["keys"]] == ["shop"]
    assert made["key"] not in listed.stdout
    assert "whsec_" not in listed.stdout

    rotated = json.loads(_rmbg("rotate-secret", "shop", "--json").stdout)
    assert rotated["webhook_secret"] != made["webhook_secret"]
    assert json.loads(_rmbg("revoke", "shop", "--json").stdout)["revoked"] is True
    assert ApiKeys(connect(url)).find(made["key"]) is None


def test_without_json_the_output_is_sentences(url: str) -> None:
    assert "no keys" in _rmbg("list").output
    added = _rmbg("add", "shop", "--webhook-url", "https://shop.example/hook")
    assert added.exit_code == 0
    assert "cannot be shown again" in added.output
    (line,) = [each for each in added.stdout.splitlines() if each.startswith("key ")]
    assert ApiKeys(connect(url)).find(line.split()[1]) is not None
    assert "shop" in _rmbg("list").output
    again = _rmbg("add", "shop")
    assert again.exit_code == 1
    assert "already" in again.output
    assert "24 hours" in _rmbg("rotate-secret", "shop").output
    assert "revoked" in _rmbg("revoke", "shop").output


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["add", "a b"], "letters"),
        (["add", "shop", "--rate", "fast"], "60/min"),
        (["add", "shop", "--rate", "0/min"], "60/min"),
        (["add", "shop", "--models", "nothing"], "nothing"),
        (["add", "shop", "--webhook-url", "shop.example"], "https"),
    ],
)
@pytest.mark.usefixtures("url")
def test_a_bad_option_is_explained(arguments: list[str], word: str) -> None:
    result = _rmbg(*arguments)
    assert result.exit_code == 2
    assert word in result.output


@pytest.mark.usefixtures("url")
def test_an_unknown_name_is_an_error_in_json_too() -> None:
    result = _rmbg("revoke", "nobody", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"]["type"] == "key_name"
