"""What is committed as documentation is what the code says."""

import re

import pytest

from api.settings import ApiSettings
from docs.reference import PAGES
from tests.support.paths import ROOT


@pytest.mark.parametrize("path", PAGES)
def test_a_made_page_is_up_to_date(path: str) -> None:
    assert (ROOT / path).read_text() == PAGES[path](), "run: python -m docs.reference"


def test_every_setting_says_what_it_is() -> None:
    assert not [name for name, field in ApiSettings.model_fields.items() if not field.description]


def test_no_document_names_a_setting_that_does_not_exist() -> None:
    known = {f"RMBG_{name.upper()}" for name in ApiSettings.model_fields}
    known |= {f"{name}_FILE" for name in known} | {"RMBG_URL", "RMBG_API_KEY"}
    documents = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    for document in documents:
        named = set(re.findall(r"RMBG_[A-Z0-9_]*[A-Z0-9]", document.read_text()))
        assert named <= known, document
