"""Where the tests find the repository's files, wherever they stand themselves; what files hold."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
#: Photos, golden pictures, and weights that are small enough for git.
DATA: Final = ROOT / "tests" / "data"
#: The variable that names the folder of the mattes that a model remembers.
REMEMBERED: Final = "TESTS_REMEMBERED_MATTES"
#: While a file of this name is in that folder, the model does not answer.
HELD: Final = "held"


def anchors(page: Path) -> set[str]:
    """The anchors of a Markdown page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each).lower().replace(" ", "-") for each in headings}


def holds(folder: Path, data: bytes, names: str = "*") -> bool:
    """Does a file of a folder hold these bytes? A server may remove files meanwhile."""
    for file in folder.rglob(names):
        with suppress(FileNotFoundError, IsADirectoryError):
            if data in file.read_bytes():
                return True
    return False
