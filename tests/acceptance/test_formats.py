"""Files of every format and kind through the service: a cutout, or a refusal by name."""

import re
from typing import Any, Final

import pytest

from deploy.client import submit_batch
from tests.support.format_files import FILES, ROWS
from tests.support.service import RunningService, eventually

#: Pictures of a batch, at most.
_BATCH: Final = 100


@pytest.fixture(scope="module")
def items(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of each file, by the row's first words and a number, in batches."""
    folder = tmp_path_factory.mktemp("kinds")
    files = {f"{row} {at}": data for row in FILES for at, data in enumerate(FILES[row]())}
    paths = [folder / f"{number}.bin" for number in range(len(files))]
    for data, path in zip(files.values(), paths, strict=True):
        path.write_bytes(data)
    found: list[dict[str, Any]] = []
    for start in range(0, len(paths), _BATCH):
        batch = submit_batch(service.client, paths[start : start + _BATCH], {})
        address = f"/api/v1/batches/{batch['batch_id']}"

        def completed(address: str = address) -> dict[str, Any] | None:
            batch = service.client.request("GET", address)
            return batch if batch["status"] == "completed" else None

        found += eventually("the batch is completed", completed)["items"]
    return dict(zip(files, found, strict=True))


def test_the_table_and_the_files_have_the_same_rows() -> None:
    for row in ROWS:
        assert any(row.startswith(each) for each in FILES), row
    for each in FILES:
        assert any(row.startswith(each) for row in ROWS), each


@pytest.mark.parametrize("row", ROWS)
def test_a_row_says_what_becomes_of_the_file(items: dict[str, Any], row: str) -> None:
    key = max((each for each in FILES if row.startswith(each)), key=len)
    refused = re.match(r"`(\w+)`: (.+?)(, when it is cut out)?$", ROWS[row])
    for item in [items[f"{key} {at}"] for at in range(len(FILES[key]()))]:
        if refused is None:
            assert item["status"] == "succeeded", item
        else:
            assert item["error"]["type"] == refused[1]
            assert refused[2] in item["error"]["message"]
            assert (item["task_id"] is not None) is (refused[3] is not None)
