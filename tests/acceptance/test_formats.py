"""A file of each row of docs/formats.md through the service: a cutout, or a refusal by name.

All files of a row are read in tests/unit/inference/test_decode.py.
"""

import re
from typing import Any

import pytest

from deploy.client import submit_batch
from tests.support.format_files import FILES, ROWS
from tests.support.service import RunningService, eventually


@pytest.fixture(scope="module")
def items(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of a file of each row, by the row's first words."""
    folder = tmp_path_factory.mktemp("kinds")
    paths = [folder / f"{number}.bin" for number in range(len(FILES))]
    for make, path in zip(FILES.values(), paths, strict=True):
        path.write_bytes(make()[0])
    address = f"/api/v1/batches/{submit_batch(service.client, paths, {})['batch_id']}"

    def completed() -> dict[str, Any] | None:
        batch = service.client.request("GET", address)
        return batch if batch["status"] == "completed" else None

    found = eventually("the batch is completed", completed) or {}
    return dict(zip(FILES, found["items"], strict=True))


def test_the_table_and_the_files_have_the_same_rows() -> None:
    for row in ROWS:
        assert any(row.startswith(each) for each in FILES), row
    for each in FILES:
        assert any(row.startswith(each) for row in ROWS), each


@pytest.mark.parametrize("row", ROWS)
def test_a_row_says_what_becomes_of_the_file(items: dict[str, Any], row: str) -> None:
    key = max((each for each in FILES if row.startswith(each)), key=len)
    refused = re.match(r"`(\w+)`: (.+?)(, when it is cut out)?$", ROWS[row])
    item = items[key]
    if refused is None:
        assert item["status"] == "succeeded", item
    else:
        assert item["error"]["type"] == refused[1]
        assert refused[2] in item["error"]["message"]
        assert (item["task_id"] is not None) is (refused[3] is not None)
