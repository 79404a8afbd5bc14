"""A file of each row of docs/formats.md through the service: a cutout, or a refusal by name.

All files of a row are read in tests/unit/inference/test_decode.py.
"""

import re

import pytest

from rmbg_client import Client
from rmbg_client.models import BatchItem
from tests.support.format_files import FILES, ROWS
from tests.support.service import RunningService


@pytest.fixture(scope="module")
def items(
    service: RunningService, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, BatchItem]:
    """What became of a file of each row, by the row's first words."""
    folder = tmp_path_factory.mktemp("kinds")
    paths = [folder / f"{number}.bin" for number in range(len(FILES))]
    for make, path in zip(FILES.values(), paths, strict=True):
        path.write_bytes(make()[0])
    with Client(service.url) as client:
        batch = client.wait_batch(client.submit_batch(paths).batch_id)
    return dict(zip(FILES, batch.items, strict=True))


def test_the_table_and_the_files_have_the_same_rows() -> None:
    for row in ROWS:
        assert any(row.startswith(each) for each in FILES), row
    for each in FILES:
        assert any(row.startswith(each) for row in ROWS), each


@pytest.mark.parametrize("row", ROWS)
def test_a_row_says_what_becomes_of_the_file(items: dict[str, BatchItem], row: str) -> None:
    key = max((each for each in FILES if row.startswith(each)), key=len)
    refused = re.match(r"`(\w+)`: (.+?)(, when it is cut out)?$", ROWS[row])
    item = items[key]
    if refused is None:
        assert item.status == "succeeded", item
    else:
        assert item.error is not None
        assert item.error.type == refused[1]
        assert refused[2] in item.error.message
        assert (item.task_id is not None) is (refused[3] is not None)
