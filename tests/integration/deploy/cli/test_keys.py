"""`rmbg keys`, on a real Redis."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from redis import Redis
from typer.testing import CliRunner

from deploy.cli.main import app
from tasks.api_keys import ANONYMOUS, ApiKeys
from tasks.quotas import Quotas


@pytest.fixture(autouse=True)
def keys(redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> ApiKeys:
    monkeypatch.setenv("RMBG_REDIS_URL", redis_url)
    return ApiKeys(redis)


def _rmbg(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(app, ["keys", *arguments])
    assert result.exit_code == status, result.output
    return result


def test_a_key_is_added_listed_rotated_and_revoked(keys: ApiKeys) -> None:
    limits = ("--rate", "2/s", "--models", "u2netp", "--max-bytes", "1.5GB", "--max-uploads", "0")
    made = json.loads(_rmbg("add", "shop", *limits, "--operator", "--json").stdout)
    assert made["operator"] is True
    assert made["rate_per_minute"] == 120
    assert made["models"] == ["u2netp"]
    owner = keys.find(made["key"])
    assert owner is not None
    assert (owner.name, owner.operator) == ("shop", True)

    listed = _rmbg("list", "--json")
    (shop,) = json.loads(listed.stdout)["keys"]
    assert shop["name"] == "shop"
    stored = {"used": 0, "limit": 3 * 2**29}
    none = {"used": 0, "limit": 0}
    assert shop["usage"] == {"bytes": stored, "uploads": none, "pending": none}
    assert made["key"] not in listed.stdout
    assert "whsec_" not in listed.stdout

    changed = ("--max-bytes", "default", "--max-uploads", "3", "--max-pending", "7")
    _rmbg("set-quotas", "shop", *changed, "--json")
    owner = keys.find(made["key"])
    assert owner is not None
    assert (owner.max_bytes, owner.max_uploads, owner.max_pending) == (None, 3, 7)
    assert owner.rate_per_minute == 120

    rotated = json.loads(_rmbg("rotate-secret", "shop", "--json").stdout)
    assert rotated["webhook_secret"] != made["webhook_secret"]
    assert json.loads(_rmbg("revoke", "shop", "--json").stdout)["revoked"] is True
    assert keys.find(made["key"]) is None


def test_without_json_the_output_is_sentences(keys: ApiKeys, redis: Redis) -> None:
    assert "no keys" in _rmbg("list").output
    added = _rmbg("add", "shop", "--webhook-url", "https://shop.example/hook")
    assert "cannot be shown again" in added.output
    (line,) = [each for each in added.stdout.splitlines() if each.startswith("key ")]
    assert keys.find(line.split()[1]) is not None
    listed = _rmbg("list").output
    assert "shop" in listed
    assert "anonymous" not in listed
    assert "0/100GB" in listed
    # Of requests without a key, once they have anything.
    Quotas(redis).charge(ANONYMOUS, ["rm-1"], {"originals/rm-1": 3 * 2**20}, pending=True)
    assert "3MB/100GB" in _rmbg("list").output
    assert json.loads(_rmbg("list", "--json").stdout)["anonymous"]["usage"]["pending"]["used"] == 1
    assert "changed" in _rmbg("set-quotas", "shop", "--max-pending", "7").output
    assert "already" in _rmbg("add", "shop", status=1).output
    assert "24 hours" in _rmbg("rotate-secret", "shop").output
    assert "revoked" in _rmbg("revoke", "shop").output


def test_keys_that_redis_lost_are_imported(keys: ApiKeys, redis: Redis, tmp_path: Path) -> None:
    (shop, key), (_, other_key), (gone, gone_key) = map(keys.add, ("shop", "other", "gone"))
    export = tmp_path / "keys.json"
    export.write_text(_rmbg("export").stdout)
    assert not [each for each in (key, other_key) if each in export.read_text()]
    assert "No key was missing" in _rmbg("import", str(export)).output
    redis.flushdb()
    keys.add("other")
    refused = json.loads(_rmbg("import", str(export), "--json", status=1).stdout)
    assert refused["imported"] == ["gone", "shop"]
    assert "'other'" in refused["refused"][0]
    assert (keys.find(key), keys.find(other_key), keys.find(gone_key)) == (shop, None, gone)
    keys.revoke("gone")
    _rmbg("import", str(export), status=1)
    assert keys.find(gone_key) is None, "an old export makes no revoked key valid"


@pytest.mark.parametrize("text", ["", "[]", '{"keys": [{"owner": "{}", "sha256": "1"}]}'])
def test_a_file_that_is_no_export_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text(text)
    assert (
        "no file of `rmbg keys export`"
        in _rmbg("import", str(tmp_path / "keys.json"), status=1).output
    )


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["add", "a b"], "letters"),
        (["add", "shop", "--rate", "fast"], "60/min"),
        (["add", "shop", "--rate", "0/min"], "60/min"),
        (["add", "shop", "--models", "nothing"], "nothing"),
        (["add", "shop", "--webhook-url", "shop.example"], "https"),
        (["add", "shop", "--rate", f"{10**14}/s"], "60/min"),
        (["add", "shop", "--max-bytes", "much"], "500MB"),
        (["add", "shop", "--max-bytes", "1000TB"], "at most 900TB"),
        (["add", "shop", "--max-pending", "-1"], "whole number"),
        (["set-quotas", "shop"], "--max-bytes"),
    ],
)
def test_a_bad_option_is_explained(arguments: list[str], word: str) -> None:
    assert word in _rmbg(*arguments, status=2).output


def test_an_unknown_name_is_an_error_in_json_too() -> None:
    result = _rmbg("revoke", "nobody", "--json", status=1)
    assert json.loads(result.stdout)["error"]["type"] == "key_name"
