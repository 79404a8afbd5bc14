"""What is committed as documentation is what the code says."""

import re

import pytest

from api.settings import ApiSettings
from docs.reference import PAGES
from tasks.metrics import METRICS
from tests.support.paths import ROOT

DOCUMENTS = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("path", PAGES)
def test_a_made_page_is_up_to_date(path: str) -> None:
    assert (ROOT / path).read_text() == PAGES[path](), "run: python -m docs.reference"


def test_every_setting_says_what_it_is() -> None:
    assert not [name for name, field in ApiSettings.model_fields.items() if not field.description]


def test_no_document_names_a_setting_that_does_not_exist() -> None:
    known = {f"RMBG_{name.upper()}" for name in ApiSettings.model_fields}
    known |= {f"{name}_FILE" for name in known} | {"RMBG_URL", "RMBG_API_KEY"}
    for document in DOCUMENTS:
        named = set(re.findall(r"RMBG_[A-Z0-9_]*[A-Z0-9]", document.read_text()))
        assert named <= known, document


def test_no_document_names_a_metric_that_does_not_exist() -> None:
    known = {metric.name for metric in METRICS}
    for document in DOCUMENTS:
        # Not the folder `clients/python/rmbg_client`, nor the beginnings of keys.
        named = set(re.findall(r"`(rmbg_(?!client)[a-z_]*[a-z])[`{]", document.read_text()))
        assert named <= known, document
