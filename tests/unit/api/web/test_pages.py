"""The pages' files: what a browser may do with them, their size, and their texts."""

import json
import re
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from api.app import create_app
from api.services import Services
from api.settings import ApiSettings
from api.web.pages import HEADERS
from tests.support.paths import ROOT

STATIC = ROOT / "api" / "web" / "static"
FILES = sorted(STATIC.iterdir())
PAGES = [each for each in FILES if each.suffix == ".html"]
#: All of the pages' files together, in bytes.
MAX_BYTES = 200_000


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    return create_app(Services.from_settings(ApiSettings.load(auth="on"))).test_client()


@pytest.mark.parametrize("file", FILES, ids=lambda each: each.name)
def test_a_file_comes_without_a_key_and_with_strict_headers(
    client: FlaskClient, file: Path
) -> None:
    answer = client.get(f"/web/{file.name}")
    assert answer.data == file.read_bytes()
    assert HEADERS.items() <= dict(answer.headers).items()
    assert answer.mimetype in {"text/html", "text/css", "text/javascript", "image/svg+xml"}
    again = client.get(f"/web/{file.name}", headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304


def test_the_policy_allows_no_inline_code_and_no_other_host() -> None:
    policy = HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"unsafe|https?:|\*|data:", policy)


def test_nothing_else_is_a_file_of_the_pages_and_all_together_are_small(
    client: FlaskClient,
) -> None:
    for name in ("../pages.py", "..%2fpages.py", "none.js", "."):
        assert client.get(f"/web/{name}").status_code == 404
    assert sum(each.stat().st_size for each in FILES) <= MAX_BYTES


@pytest.mark.parametrize("page", PAGES, ids=lambda each: each.name)
def test_a_page_has_no_inline_code_and_its_own_addresses_only(page: Path) -> None:
    html = page.read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)
    addresses = re.findall(r'(?:src|href)="([^"]+)"', html)
    # Relative, so that they hold below any path.
    assert not [each for each in addresses if re.match(r"[a-z]+:|/", each)]
    for address in addresses:
        if address.startswith("web/"):
            assert (STATIC / address.removeprefix("web/")).is_file()


def _languages() -> dict[str, dict[str, str]]:
    """The table of texts, which is JSON but for bare names and last commas."""
    source = (STATIC / "texts.js").read_text()
    (table,) = re.findall(r"const TEXTS = (\{.*?\n\});", source, re.DOTALL)
    named = re.sub(r'([{,]\s*)(\w+): (?=["{])', r'\1"\2": ', table)
    texts: dict[str, dict[str, str]] = json.loads(re.sub(r",(\s*\})", r"\1", named))
    return texts


def test_every_text_that_is_named_is_there_in_each_language_with_the_same_values() -> None:
    languages = _languages()
    assert set(languages) == {"en", "zh"}
    english, chinese = languages["en"], languages["zh"]
    # Chinese needs no form of its own for one.
    assert not [each for each in english.keys() ^ chinese.keys() if not each.endswith("_one")]
    for name in english.keys() & chinese.keys():
        values = [set(re.findall(r"\{\w+\}", each[name])) for each in (english, chinese)]
        assert values[0] == values[1], name
    for file in FILES:
        for name in re.findall(r'\bt\("(\w+)"|data-(?:text|label)="(\w+)"', file.read_text()):
            assert (name[0] or name[1]) in english, f"{file.name}: {name}"
